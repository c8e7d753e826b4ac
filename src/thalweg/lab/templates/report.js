(function () {
  "use strict";
  var figures = {{ figures | tojson }};
  var touch = window.matchMedia("(pointer: coarse)").matches;
  var charts = Object.keys(figures).map(function (name) {
    var place = document.getElementById("chart-" + name);
    var layout = figures[name].layout;
    // On a touch screen a drag scrolls the page; it must not zoom the chart.
    layout.dragmode = touch ? false : "zoom";
    Plotly.newPlot(place, figures[name].data, layout, { displayModeBar: false, responsive: true });
    return place;
  });
  var hidden = new Set();
  var buttons = document.querySelectorAll(".key button");
  buttons.forEach(function (button) {
    button.addEventListener("click", function () {
      var name = button.dataset.name;
      if (!hidden.delete(name)) hidden.add(name);
      buttons.forEach(function (other) {
        other.setAttribute("aria-pressed", String(!hidden.has(other.dataset.name)));
      });
      charts.forEach(function (place) {
        var shown = place.data.map(function (trace) { return !hidden.has(trace.meta); });
        if (place.data.some(function (trace) { return trace.meta; })) Plotly.restyle(place, { visible: shown });
      });
    });
  });
  function fit() { charts.forEach(function (place) { Plotly.Plots.resize(place); }); }
  window.addEventListener("beforeprint", fit);
  window.addEventListener("afterprint", fit);
})();
