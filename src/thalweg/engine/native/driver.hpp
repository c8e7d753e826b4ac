// Runs `work` over all tensors, by pieces that threads take as they come. What each piece sums up is kept apart and put
// together in the order of the pieces, so results do not depend on the number of threads. Single numbers that every piece
// reads are written when all are done.
INLINE double together(char how, double a, double b) { return how == 'm' ? double(larger(T(a), T(b))) : a + b; }

extern "C" void run(int64_t count, const int64_t* sizes, void* const* pointers, const T* rows, const T* const* answers,
                    double* out) {
  const int64_t most = TASK / UNIT;
  int64_t* first = new int64_t[count + 1];
  int64_t elements = 0;
  first[0] = 0;
  for (int64_t t = 0; t < count; ++t) {
    first[t + 1] = first[t] + (sizes[t] / UNIT + most - 1) / most;
    elements += sizes[t];
  }
  const int64_t tasks = first[count];
  double* found = new double[tasks * FOUND + 1];
#pragma omp parallel for schedule(dynamic) if (elements > TASK / 4)
  for (int64_t task = 0; task < tasks; ++task) {
    int64_t t = 0, beyond = count;
    while (beyond - t > 1) {
      const int64_t middle = (t + beyond) / 2;
      (first[middle] <= task ? t : beyond) = middle;
    }
    const int64_t from = (task - first[t]) * most, all = sizes[t] / UNIT;
    double* sums = found + task * FOUND;
    for (int s = 0; s < SUMS; ++s) sums[s] = HOW[s] == 'm' ? -INFINITY : 0;
    work(from, from + most < all ? from + most : all, t, pointers + t * COLUMNS, rows + t * ROW, answers, sums);
  }
  for (int s = 0; s < SUMS; ++s)
    for (int64_t t = 0; t < count; ++t) {
      double whole = HOW[s] == 'm' ? -INFINITY : 0;
      for (int64_t task = first[t]; task < first[t + 1]; ++task) whole = together(HOW[s], whole, found[task * FOUND + s]);
      out[s * count + t] = HOW[s] == 'a' ? whole / double(sizes[t]) : whole;
    }
  for (int k = 0; k < FOUND - SUMS; ++k)
    for (int64_t t = 0; t < count; ++t)
      if (first[t + 1] > first[t]) *(T*)pointers[t * COLUMNS + LONE[k]] = T(found[first[t] * FOUND + SUMS + k]);
  delete[] found;
  delete[] first;
}
