// What lies above the diagonal of a square matrix, copied below it. Lines of a cache's size are turned in registers: a
// column read number by number takes four times as long. It may first be made of products that lie in rows of blocks, each
// from its diagonal on, and of another matrix.
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

template <class N, class F> static void mirror(N* a, int64_t n, F make) {
  constexpr int64_t L = 64 / sizeof(N) < 16 ? 64 / sizeof(N) : 16, BLOCK = 64;
  const int64_t blocks = (n + BLOCK - 1) / BLOCK;
  // Row after row of blocks, so that threads, with as many blocks each, seldom need what another one's core has computed.
#pragma omp parallel for schedule(static)
  for (int64_t k = 0; k < blocks * (blocks + 1) / 2; ++k) {
    int64_t row = 0, rest = k;
    while (rest >= blocks - row) rest -= blocks - row++;
    const int64_t column = row + rest;
    const int64_t top = row * BLOCK, left = column * BLOCK;
    const int64_t bottom = top + BLOCK < n ? top + BLOCK : n, right = left + BLOCK < n ? left + BLOCK : n;
    make(top, bottom, left, right);
    for (int64_t i = top; i < bottom; i += L)
      for (int64_t j = left > i ? left : i; j < right; j += L) {
        if (j > i && i + L <= bottom && j + L <= right) turn<L>(a + j * n + i, a + i * n + j, n);
        else
          for (int64_t r = i; r < i + L && r < bottom; ++r)
            for (int64_t c = j > r ? j : r; c < j + L && c < right; ++c) a[c * n + r] = a[r * n + c];
      }
  }
}

// a = numbers[0]*products + numbers[1]*z, of so many rows (a multiple of 64) in each row of blocks; or a as it is.
extern "C" void run(int64_t n, int64_t bytes, float* a, const float* const* products, int64_t size, const float* z,
                    const float* numbers) {
  const auto made = [=](int64_t top, int64_t bottom, int64_t left, int64_t right) {
    const int64_t start = top / size * size, length = n - start;
    for (int64_t i = top; i < bottom; ++i) {
      const float* from = products[top / size] + (i - start) * length - start;
      if (z)
        for (int64_t j = left; j < right; ++j) a[i * n + j] = numbers[0] * from[j] + numbers[1] * z[i * n + j];
      else
        for (int64_t j = left; j < right; ++j) a[i * n + j] = numbers[0] * from[j];
    }
  };
  const auto there = [](int64_t, int64_t, int64_t, int64_t) {};
  if (products) mirror((uint32_t*)a, n, made);
  else if (bytes == 2) mirror((uint16_t*)a, n, there);
  else if (bytes == 4) mirror((uint32_t*)a, n, there);
  else mirror((uint64_t*)a, n, there);
}
