(() => {
  "use strict";
  const page = JSON.parse(document.getElementById("page").textContent);
  const main = document.querySelector("main");
  const plots = [...document.querySelectorAll(".plot")];
  const views = new Map();
  const GAP = 40;
  let pinned = "";
  let focus = "";

  function dataNames(node, found) {
    if (Array.isArray(node)) node.forEach((part) => dataNames(part, found));
    else if (node && typeof node === "object") {
      if (node.data && node.data.name) found.add(node.data.name);
      Object.values(node).forEach((part) => dataNames(part, found));
    }
    return found;
  }

  function fitted(name) {
    const { spec, wide } = page.charts[name];
    const whole = main.clientWidth;
    const width = wide || whole < 640 ? whole : Math.floor((whole - GAP) / 2);
    const copy = structuredClone(spec);
    delete copy.title;
    copy.datasets = {};
    dataNames(spec, new Set()).forEach((key) => { copy.datasets[key] = page.data[key]; });
    copy.params[0].value = focus;
    const slanted = copy.encoding?.x?.axis?.labelAngle;  // its last label reaches beyond the chart
    copy.padding = { left: 1, top: 1, right: slanted ? 32 : 2, bottom: 5 };
    if (copy.facet) {
      const axis = 48, between = copy.spacing.column;
      const most = Math.max(2, Math.min(6, Math.floor(width / 180)));
      const empty = (columns) => (columns - copy.facet.sort.length % columns) % columns;
      copy.columns = [most, most - 1, most - 2].filter((columns) => columns >= 2)
        .reduce((best, columns) => (empty(columns) < empty(best) ? columns : best));
      copy.spec.width = Math.floor((width - axis - between * (copy.columns - 1)) / copy.columns);
      copy.facet.header.labelLimit = copy.spec.width + between - 4;
    } else {
      copy.width = width;
      copy.autosize = { type: "fit-x", contains: "padding" };
    }
    return copy;
  }

  function draw(place) {
    if (views.has(place)) return;
    views.set(place, null);
    const options = { renderer: "svg", actions: false, config: page.config, tooltip: { disableDefaultStyle: true } };
    vegaEmbed(place, fitted(place.dataset.chart), options).then((result) => {
      views.set(place, result);
      place.dataset.drawn = "yes";
      if (focus) result.view.signal("focus", focus).runAsync();
      result.view.addEventListener("click", (event, item) => {
        if (item && item.datum && item.datum.optimizer) pin(item.datum.optimizer);
      });
    });
  }

  const near = new IntersectionObserver((entries) => {
    entries.forEach((entry) => { if (entry.isIntersecting) draw(entry.target); });
  }, { rootMargin: "500px" });
  plots.forEach((place) => near.observe(place));

  let width = main.clientWidth, waiting = 0;
  new ResizeObserver(() => {
    if (Math.abs(main.clientWidth - width) < 4 || matchMedia("print").matches) return;
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      width = main.clientWidth;
      views.forEach((result) => { if (result) result.finalize(); });
      views.clear();
      plots.forEach((place) => { near.unobserve(place); near.observe(place); });
    }, 200);
  }).observe(main);

  const keys = [...document.querySelectorAll(".key button")];
  function show(label) {
    if (label === focus) return;
    focus = label;
    views.forEach((result) => { if (result) result.view.signal("focus", label).runAsync(); });
  }
  function pin(label) {
    pinned = pinned === label ? "" : label;
    keys.forEach((key) => key.setAttribute("aria-pressed", String(key.dataset.optimizer === pinned)));
    document.querySelectorAll(".key").forEach((key) => key.classList.toggle("chosen", pinned !== ""));
    show(pinned);
  }
  keys.forEach((key) => {
    key.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") show(key.dataset.optimizer); });
    key.addEventListener("pointerleave", () => show(pinned));
    key.addEventListener("click", () => pin(key.dataset.optimizer));
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && pinned) pin(pinned); });

  document.querySelectorAll(".tabs button").forEach((button) => {
    button.addEventListener("click", () => {
      button.parentElement.querySelectorAll("button").forEach((other) => {
        const chosen = other === button;
        other.setAttribute("aria-pressed", String(chosen));
        document.getElementById(other.dataset.shows).hidden = !chosen;
      });
    });
  });

  function csv(rows) {
    const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
    const cell = (value) => {
      const text = value === null || value === undefined ? "" : String(value);
      return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [columns, ...rows.map((row) => columns.map((name) => row[name]))]
      .map((line) => line.map(cell).join(",")).join("\n") + "\n";
  }
  document.querySelectorAll(".csv").forEach((link) => {
    link.addEventListener("click", () => {
      const rows = page.data[page.charts[link.dataset.chart].rows];
      const url = URL.createObjectURL(new Blob([csv(rows)], { type: "text/csv" }));
      link.href = url;
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    });
  });

  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
  });

  const tasks = [...document.querySelectorAll("details")];
  const open = document.getElementById("open");
  if (open) open.addEventListener("click", () => {
    const some = tasks.some((task) => !task.open);
    tasks.forEach((task) => { task.open = some; });
    open.textContent = some ? "Close all tasks" : "Open all tasks";
  });
  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const task = target && target.closest("details");
    if (task) { task.open = true; target.scrollIntoView(); }
  }
  window.addEventListener("hashchange", reveal);
  document.querySelectorAll("nav a").forEach((link) => link.addEventListener("click", () => setTimeout(reveal)));
  reveal();

  const changed = [];
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("figure[hidden]").forEach((figure) => {
      figure.hidden = false;
      changed.push(() => { figure.hidden = true; });
    });
    plots.filter((place) => !place.closest("details:not([open])")).forEach(draw);
  });
  window.addEventListener("afterprint", () => { while (changed.length) changed.pop()(); });
})();
