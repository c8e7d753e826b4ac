// What lies above the diagonal of a square matrix, copied below it. Lines of a cache's size are turned in registers: a
// column read number by number takes four times as long.
#include <stdint.h>
#include <string.h>

// L x L numbers, L of them in a vector: their places' bits are exchanged, one after the other.
template <int L, class N> static inline void turn(N* to, const N* from, int64_t n) {
  typedef N X __attribute__((vector_size(L * sizeof(N))));
  X x[L];
  for (int k = 0; k < L; ++k) memcpy(&x[k], from + k * n, sizeof(X));
#pragma GCC unroll 4
  for (int bit = 1; bit < L; bit *= 2) {
    X low, high;
    for (int k = 0; k < L; ++k) low[k] = k & bit ? L + k - bit : k, high[k] = k & bit ? L + k : k + bit;
#pragma GCC unroll 16
    for (int k = 0; k < L; ++k)
      if (!(k & bit)) {
        const X a = x[k], b = x[k + bit];
#ifdef __clang__
        for (int l = 0; l < L; ++l) {
          x[k][l] = l & bit ? b[l - bit] : a[l];
          x[k + bit][l] = l & bit ? b[l] : a[l + bit];
        }
#else
        x[k] = __builtin_shuffle(a, b, low);
        x[k + bit] = __builtin_shuffle(a, b, high);
#endif
      }
  }
  for (int k = 0; k < L; ++k) memcpy(to + k * n, &x[k], sizeof(X));
}

template <class N> static void mirror(N* a, int64_t n) {
  constexpr int64_t L = 64 / sizeof(N) < 16 ? 64 / sizeof(N) : 16, BLOCK = 64;
  const int64_t blocks = (n + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(dynamic)
  for (int64_t block = 0; block < blocks * blocks; ++block) {
    const int64_t top = block / blocks * BLOCK, left = block % blocks * BLOCK;
    const int64_t bottom = top + BLOCK < n ? top + BLOCK : n, right = left + BLOCK < n ? left + BLOCK : n;
    if (left < top) continue;
    for (int64_t i = top; i < bottom; i += L)
      for (int64_t j = left > i ? left : i; j < right; j += L) {
        if (j > i && i + L <= bottom && j + L <= right) turn<L>(a + j * n + i, a + i * n + j, n);
        else
          for (int64_t r = i; r < i + L && r < bottom; ++r)
            for (int64_t c = j > r ? j : r; c < j + L && c < right; ++c) a[c * n + r] = a[r * n + c];
      }
  }
}

extern "C" void run(int64_t n, int64_t bytes, void* a) {
  if (bytes == 2) mirror((uint16_t*)a, n);
  else if (bytes == 4) mirror((uint32_t*)a, n);
  else mirror((uint64_t*)a, n);
}
