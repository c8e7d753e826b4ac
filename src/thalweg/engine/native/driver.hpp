// Runs `work` over all tensors, by pieces of so many units (elements, blocks or rows). Each thread has a share of them, the
// same in every pass, so that it updates what it has measured: that is in its own cache, or near it where processors have
// several. Done with its own it takes pieces of the others'. What each piece sums up is kept apart and put together in the
// order of the pieces, so results do not depend on the number of threads. HOW they are taken: of elements a s(um), an
// a(verage) or a m(aximum), an average of c(olumns); of rows, number by number, t(otals), averages (r) and maxima (x); and
// n(umbers) that every piece knows. At last `finish` is handed the sums, and writes what every piece reads.
INLINE double neutral(char how) { return how == 'm' || how == 'x' ? -INFINITY : 0; }
constexpr int STRIP = 256;  // columns whose sums are put together at a time
constexpr int SUMS = sizeof(HOW) - 1, COLUMN_SUMS = sizeof(HOW_COLUMNS) - 1;

extern "C" int omp_get_thread_num(), omp_get_num_threads(), omp_get_max_threads();

extern "C" void run(int64_t count, const int64_t* sizes, const int64_t* units, void* const* pointers, const T* numbers,
                    const T* const* answers, double* out) {
  struct Place { int64_t task, most, columns, rows; };
  Place* first = new Place[count + 1];
  int64_t elements = 0;
  first[0] = {};
  for (int64_t t = 0; t < count; ++t) {
    const int64_t all = sizes[t] / units[t];
    int64_t most = TASK / units[t] > 1 ? TASK / units[t] : 1;
    // Few pieces where each has sums of its own for all columns.
    if (COLUMN_SUMS && most < all / 64) most = all / 64;
    const int64_t tasks = all ? (all + most - 1) / most : 1;  // parts of none join in
    first[t].most = most;
    first[t + 1] = {first[t].task + tasks, 0, first[t].columns + tasks * COLUMN_SUMS * units[t], first[t].rows + all * ROW_SUMS};
    elements += sizes[t];
  }
  const int64_t tasks = first[count].task;
  double* found = new double[tasks * SUMS + 1];
  T* columns = new T[first[count].columns + 1];
  T* rows = new T[first[count].rows + 1];
  const auto piece = [&](int64_t task) {
    int64_t t = 0, beyond = count;
    while (beyond - t > 1) {
      const int64_t middle = (t + beyond) / 2;
      (first[middle].task <= task ? t : beyond) = middle;
    }
    const int64_t nth = task - first[t].task, most = first[t].most, from = nth * most, all = sizes[t] / units[t];
    double* sums = found + task * SUMS;
    for (int s = 0; s < SUMS; ++s) sums[s] = neutral(HOW[s]);
    work(from, from + most < all ? from + most : all, t, units[t], pointers + t * COLUMNS, numbers + t * NUMBERS, answers,
         all, sums, columns + first[t].columns + nth * COLUMN_SUMS * units[t], rows + first[t].rows);
  };
  // The first piece of a thread's share: of as many elements as the others'.
  const auto share = [&](int64_t thread, int64_t threads) {
    int64_t target = elements * thread / threads, t = 0;
    if (!thread) return t;  // also where the first tensors have no elements
    for (; t < count && target >= sizes[t]; ++t) target -= sizes[t];
    return t < count ? first[t].task + (target + first[t].most * units[t] / 2) / (first[t].most * units[t]) : tasks;
  };
  int64_t* taken = new int64_t[omp_get_max_threads()]();
#pragma omp parallel if (THREADS && elements > TASK / 4)
  for (int k = 0, threads = omp_get_num_threads(); k < threads; ++k) {
    const int whose = (omp_get_thread_num() + k) % threads;
    const int64_t begin = share(whose, threads), end = share(whose + 1, threads);
    for (int64_t n; (n = __atomic_fetch_add(taken + whose, 1, __ATOMIC_RELAXED)) < end - begin;) piece(begin + n);
  }
  delete[] taken;
  const auto conclude = [&](int64_t t) {
    const int64_t unit = units[t], all = sizes[t] / unit, pieces = first[t + 1].task - first[t].task;
    double totals[SUMS + 1];
    for (int s = 0; s < SUMS; ++s) {
      const char how = HOW[s];
      double whole = neutral(how);
      for (int64_t k = first[t].task; k < first[t + 1].task; ++k) whole = together(how, whole, found[k * SUMS + s]);
      totals[s] = whole / double(how == 'a' ? sizes[t] : how == 'r' ? all : how == 'c' ? unit : 1);
      if (out) out[s * count + t] = totals[s];
    }
    // Those of columns lie where the first piece had its own.
    T* own = columns + first[t].columns;
    for (int s = 0; s < COLUMN_SUMS; ++s) {
      const double share = HOW_COLUMNS[s] == 'a' ? 1 / double(all) : 1;
      T* to = own + s * unit;
      const char how = HOW_COLUMNS[s];
#pragma omp parallel for if (pieces * unit > TASK / 4)
      for (int64_t strip = 0; strip < unit; strip += STRIP) {
        const int64_t n = unit - strip < STRIP ? unit - strip : STRIP;
        double whole[STRIP];
        for (int64_t c = 0; c < n; ++c) whole[c] = to[strip + c];
        for (int64_t k = 1; k < pieces; ++k) {
          const T* next = to + k * COLUMN_SUMS * unit + strip;
          for (int64_t c = 0; c < n; ++c) whole[c] = together(how, whole[c], next[c]);
        }
        for (int64_t c = 0; c < n; ++c) to[strip + c] = T(whole[c] * share);
      }
    }
    finish(t, unit, pointers + t * COLUMNS, numbers + t * NUMBERS, answers, all, totals, own, rows + first[t].rows);
  };
  if (COLUMN_SUMS && count > 1 && elements > TASK) {
#pragma omp parallel for schedule(dynamic)
    for (int64_t t = 0; t < count; ++t) conclude(t);
  } else {
    for (int64_t t = 0; t < count; ++t) conclude(t);
  }
  delete[] rows;
  delete[] columns;
  delete[] found;
  delete[] first;
}
