// Arithmetic of generated kernels: numbers of type T, and vectors of W of them. Plain C++ with GCC's and Clang's vector
// types, and no header that takes long to compile.
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define INLINE_ inline __attribute__((always_inline))
#define INLINE static INLINE_

template <int bytes> struct Int;
template <> struct Int<4> { typedef int32_t type; typedef uint32_t natural; };
template <> struct Int<8> { typedef int64_t type; typedef uint64_t natural; };

constexpr int W = VECTOR_BYTES / sizeof(T);
typedef typename Int<sizeof(T)>::type TI;
typedef typename Int<sizeof(T)>::natural TU;
typedef T V __attribute__((vector_size(VECTOR_BYTES)));
typedef TI M __attribute__((vector_size(VECTOR_BYTES)));  // masks (all bits or none), and integers
typedef TU U __attribute__((vector_size(VECTOR_BYTES)));
struct bfloat16 { uint16_t bits; };

// Whole numbers in loops: variables where registers are few, as GCC would make such constants anew each time, with three
// instructions by way of another kind of register.
#define HIDDEN __attribute__((visibility("hidden")))
#if defined(__AVX__) && !defined(__AVX512F__)
#define WHOLE_NUMBER HIDDEN
#else
#define WHOLE_NUMBER static const
#endif
WHOLE_NUMBER TI SIGN = TI(TU(1) << (8 * sizeof(T) - 1)), SIZE = TI(TU(-1) >> 1);

// Numbers as vectors.
INLINE V up(T x) { return x - V{}; }
INLINE V up(V x) { return x; }
INLINE M lanes() { M r; for (int k = 0; k < W; ++k) r[k] = k; return r; }
INLINE V choose(M m, V a, V b) { return m ? a : b; }
INLINE V choose(bool m, V a, V b) { return m ? a : b; }
INLINE T choose(bool m, T a, T b) { return m ? a : b; }
INLINE M bits(V x) { return (M)x; }

// Functions. A maximum or minimum with a NaN is one, as it is in torch.
#define EACH(name, call) \
  INLINE T name(T x) { return call; } \
  INLINE V name(V v) { V r; for (int k = 0; k < W; ++k) { T x = v[k]; r[k] = call; } return r; }
EACH(root, sizeof(T) == 4 ? __builtin_sqrtf(x) : __builtin_sqrt(x))
EACH(whole, sizeof(T) == 4 ? __builtin_floorf(x) : __builtin_floor(x))
EACH(logarithm, sizeof(T) == 4 ? logf(x) : log(x))
EACH(logarithm1p, sizeof(T) == 4 ? log1pf(x) : log1p(x))
EACH(tangent_h, sizeof(T) == 4 ? tanhf(x) : tanh(x))
INLINE T angle(T y, T x) { return sizeof(T) == 4 ? atan2f(y, x) : atan2(y, x); }
INLINE V angle(V y, V x) { V r; for (int k = 0; k < W; ++k) r[k] = angle(y[k], x[k]); return r; }
INLINE T beyond(T x, T y) { return sizeof(T) == 4 ? nextafterf(x, y) : nextafter(x, y); }
INLINE T power(T x, T y) { return sizeof(T) == 4 ? powf(x, y) : pow(x, y); }
INLINE V power(V x, V y) { V r; for (int k = 0; k < W; ++k) r[k] = power(x[k], y[k]); return r; }

INLINE V size(V x) { return (V)(bits(x) & SIZE); }
INLINE T size(T x) { return x < 0 ? -x : x == 0 ? T(0) : x; }
INLINE V larger(V a, V b) { V c = choose(b == b, a, b); return choose(b > c, b, c); }  // the form of one instruction
INLINE T larger(T a, T b) { return a > b || a != a ? a : b; }
INLINE V smaller(V a, V b) { V c = choose(b == b, a, b); return choose(b < c, b, c); }
INLINE T smaller(T a, T b) { return a < b || a != a ? a : b; }
// At least or at most a number; a NaN stays one, or of `raised` is the number. GCC does not see the one instruction in the
// form with constants.
#if defined(__AVX512F__) && !defined(DOUBLE) && !defined(__clang__)
INLINE V at_least(V x, T y) { return __builtin_ia32_maxps512_mask(up(y), x, V{}, 0xffff, 4); }
INLINE V at_most(V x, T y) { return __builtin_ia32_minps512_mask(up(y), x, V{}, 0xffff, 4); }
INLINE V raised(V x, T y) { return __builtin_ia32_maxps512_mask(x, up(y), V{}, 0xffff, 4); }
#elif defined(__AVX__) && !defined(__AVX512F__) && !defined(DOUBLE)
INLINE V at_least(V x, T y) { return __builtin_ia32_maxps256(up(y), x); }
INLINE V at_most(V x, T y) { return __builtin_ia32_minps256(up(y), x); }
INLINE V raised(V x, T y) { return __builtin_ia32_maxps256(x, up(y)); }
#else
INLINE V at_least(V x, T y) { return choose(x < y, up(y), x); }
INLINE V at_most(V x, T y) { return choose(x > y, up(y), x); }
INLINE V raised(V x, T y) { return choose(x > y, x, up(y)); }
#endif
INLINE V positive(V x) { return at_least(x, 0); }
INLINE T positive(T x) { return x < 0 ? T(0) : x; }
INLINE V sign(V x) { return choose(x > 0, up(1), choose(x < 0, up(-1), V{})); }
INLINE T sign(T x) { return x > 0 ? T(1) : x < 0 ? T(-1) : T(0); }
INLINE M is_finite(V x) { return size(x) <= (sizeof(T) == 4 ? T(__FLT_MAX__) : T(__DBL_MAX__)); }
INLINE bool is_finite(T x) { return size(x) <= (sizeof(T) == 4 ? T(__FLT_MAX__) : T(__DBL_MAX__)); }

// Division by a number: in float32 by its inverse, which is normal once the number is not near the ends of the range.
#ifdef DOUBLE
typedef T Divisor;
INLINE V over(V x, Divisor by) { return x / by; }
#else
struct Divisor {
  T nearer, inverse;
  Divisor() {}
  Divisor(T y) : nearer(size(y) < 1.2e-38f ? 0x1p64f : size(y) > 8e37f ? 0x1p-64f : 1), inverse(1 / (y * nearer)) {}
};
INLINE V over(V x, const Divisor& by) { return x * by.nearer * by.inverse; }
#endif

// Division by a root: its inverse from a table of the processor's, and one step of Newton's (2^-27); where that has no
// number, of zero and infinity, what the table says is right.
#if defined(__AVX512F__) && !defined(DOUBLE) && !defined(__clang__)
INLINE V over_root(V x, V y) {
  const V r = __builtin_ia32_rsqrt14ps512_mask(y, V{}, 0xffff), h = y * r;
  return x * choose(h == h, r + r * 0.5f * (1 - h * r), r);
}
#else
INLINE V over_root(V x, V y) { return x / root(y); }
#endif

// The exponential of float32 by a polynomial on +-ln(2)/2 (2e-9) and a scale of two's powers; of double the library's.
INLINE T exponential(T x) { return sizeof(T) == 4 ? expf(x) : exp(x); }
#ifdef DOUBLE
INLINE V exponential(V v) { V r; for (int k = 0; k < W; ++k) r[k] = exp(v[k]); return r; }
#else
INLINE V exponential(V v) {
  V x = at_most(at_least(v, -104.f), 88.73f);  // where the result is zero, and where it is infinite
  V n = whole(x * 1.442695041f + 0.5f);
  V r = x - n * 0.693359375f + n * 2.12194440e-4f, r2 = r * r;
  // Pair by pair: a chain of few operations.
  V high = 0.0013843644f * r2 + (0.0083741629f * r + 0.041668002f), low = (0.16666432f * r + 0.49999994f) * r2 + (r + 1);
  V p = high * (r2 * r2) + low;
#if defined(__AVX512F__)
  return __builtin_ia32_scalefps512_mask(p, n, V{}, 0xffff, 4);
#else
  M e = __builtin_convertvector(n, M), half = e >> 1;  // in two steps, as 2^n may lie beyond what is normal
  return p * (V)((half + 127) << 23) * (V)((e - half + 127) << 23);
#endif
}
#endif
template <class X> INLINE X logistic(X x) {
  X e = exponential(-size(x)), n = 1 / (1 + e);
  return choose(x < 0, e * n, n);
}

// Loads and stores of a vector, or of its first `rest` lanes where `part` is set; all else is zero there.
template <bool part, class S> INLINE void take(S* to, const S* from, int rest) {
  if (part) { memset((void*)to, 0, W * sizeof(S)); memcpy((void*)to, from, rest * sizeof(S)); }
  else memcpy((void*)to, from, W * sizeof(S));
}
template <bool part, class S> INLINE void give(S* to, const S* from, int rest) {
  memcpy((void*)to, from, (part ? rest : W) * sizeof(S));
}
template <class S> struct Like { typedef S type __attribute__((vector_size(W * sizeof(S)))); };
template <bool part, class S> INLINE typename Like<S>::type raw(const S* p, int rest) {
  typename Like<S>::type x;
  take<part>((S*)&x, p, rest);
  return x;
}

// Between integers of other widths. GCC before 14 takes vectors apart for that, so it is told what to use.
#ifndef DOUBLE
typedef typename Like<uint8_t>::type Bytes;
typedef typename Like<uint16_t>::type Shorts;
#if defined(__AVX512F__) && !defined(__clang__)
typedef char Chars __attribute__((vector_size(16)));
typedef short Halves __attribute__((vector_size(32)));
INLINE M widened(Bytes x) { return __builtin_ia32_pmovzxbd512_mask((Chars)x, M{}, 0xffff); }
INLINE M widened(Shorts x) { return __builtin_ia32_pmovzxwd512_mask((Halves)x, M{}, 0xffff); }
INLINE Bytes bytes(M x) { return (Bytes)__builtin_ia32_pmovdb512_mask(x, Chars{}, 0xffff); }
INLINE Shorts shorts(M x) { return (Shorts)__builtin_ia32_pmovdw512_mask(x, Halves{}, 0xffff); }
#elif defined(__AVX2__) && !defined(__AVX512F__)
typedef char Chars __attribute__((vector_size(16)));
typedef short Halves __attribute__((vector_size(16)));
typedef int Ints __attribute__((vector_size(16)));
typedef long long Longs __attribute__((vector_size(16)));
INLINE M widened(Bytes x) {  // each half of a vector has a copy of all to pick from
  typedef int64_t Copies __attribute__((vector_size(32)));
  typedef char Picks __attribute__((vector_size(32)));
  const M from = M{0, 1, 2, 3, 4, 5, 6, 7} | 0x80808000;
  int64_t all;
  memcpy(&all, &x, sizeof all);
  return (M)__builtin_ia32_pshufb256((Picks)(all - Copies{}), (Picks)from);
}
INLINE M widened(Shorts x) { return (M)__builtin_ia32_pmovzxwd256((Halves)x); }
INLINE Shorts shorts(M x) {  // of numbers below 2^16
  Ints halves[2];
  memcpy(halves, &x, sizeof x);
  return (Shorts)__builtin_ia32_packusdw128(halves[0], halves[1]);
}
INLINE Bytes bytes(M x) {  // of numbers below 2^8
  const Halves h = (Halves)shorts(x);
  return (Bytes)((Longs)__builtin_ia32_packuswb128(h, h))[0];
}
#else
INLINE M widened(Bytes x) { return __builtin_convertvector(x, M); }
INLINE M widened(Shorts x) { return __builtin_convertvector(x, M); }
INLINE Bytes bytes(M x) { return __builtin_convertvector(x, Bytes); }
INLINE Shorts shorts(M x) { return __builtin_convertvector(x, Shorts); }
#endif
#endif

// Memory is asked for what will be read so many numbers later: processors do so by themselves, but within a page, and not
// enough of them where much is done with each number.
template <bool part> INLINE V load(const T* p, int rest, int64_t ahead = 0) {
  if (ahead && !part) __builtin_prefetch(p + ahead);
  return raw<part>(p, rest);
}
#ifndef DOUBLE
template <bool part> INLINE V load(const bfloat16* p, int rest, int64_t ahead = 0) {
  if (ahead && !part) __builtin_prefetch(p + ahead);
  return (V)(widened(raw<part>((const uint16_t*)p, rest)) << 16);
}
#endif
template <bool part> INLINE void store(T* p, V x, int rest) { give<part>(p, (const T*)&x, rest); }
// Past the caches, where what is stored was not read: else memory would be read into them first.
template <bool part> INLINE void stream(T* p, V x, int rest) {
#if defined(__SSE__) && !defined(DOUBLE)
  if (!part && (uintptr_t)p % sizeof x == 0) {
#if defined(__AVX512F__)
    return __builtin_ia32_movntps512(p, x);
#elif defined(__AVX__)
    return __builtin_ia32_movntps256(p, x);
#else
    return __builtin_ia32_movntps(p, x);
#endif
  }
#endif
  store<part>(p, x, rest);
}
#ifndef DOUBLE
// Of numbers that are bfloat16 already.
template <bool part> INLINE void give_upper(bfloat16* p, V x, int rest) {
  Shorts y = shorts((M)((U)x >> 16));
  give<part>((uint16_t*)p, (const uint16_t*)&y, rest);
}
WHOLE_NUMBER uint32_t TIE = 0x7fff, LAST = 1;
template <bool part> INLINE void store(bfloat16* p, V x, int rest) {
  U b = (U)x;  // to the nearest, ties to even
  give_upper<part>(p, choose(x == x, (V)(b + TIE + ((b >> 16) & LAST)), (V)((U){} + 0x7fc00000)), rest);
}
#endif

// Bits, eight to a byte: of the lanes from the o-th of a row on.
template <bool part> INLINE M flags(const uint8_t* row, int64_t o, int rest) {
#if defined(__AVX2__) && !defined(__AVX512F__) && !defined(DOUBLE)
  typedef char Copies __attribute__((vector_size(32)));
  const M bit = 1 << lanes(), b = (M)((char)row[o / 8] - Copies{});  // a byte for all lanes
  return (b & bit) == bit;
#else
  uint32_t b = 0;
  memcpy(&b, row + o / 8, ((part ? rest : W) + o % 8 + 7) / 8);
  return (((TI)(b >> o % 8) - M{}) >> lanes() & 1) != 0;
#endif
}
template <bool part> INLINE void set_flags(uint8_t* row, int64_t o, M set, int rest) {
#if defined(__AVX512DQ__) && !defined(DOUBLE)
  uint32_t b = __builtin_ia32_cvtd2mask512(set);
#elif defined(__AVX__) && !defined(DOUBLE)
  uint32_t b = __builtin_ia32_movmskps256((V)set);
#else
  uint32_t b = 0;
  for (int k = 0; k < W; ++k) b |= (set[k] & 1) << k;
#endif
  if (part) b &= (1u << rest) - 1;
  if (W == 4) b = o % 8 ? b << 4 | (row[o / 8] & 15) : b | (row[o / 8] & 240);  // half a byte; the other half stays
  memcpy(row + o / 8, &b, ((part ? rest : W) + o % 8 + 7) / 8);
}

// What lies beyond the tensor counts for nothing.
template <bool part> INLINE V within(V x, int rest, T other) { return part ? choose(lanes() < rest, x, up(other)) : x; }
// Sums: of a few vectors in T, of those in double, lane by lane until the end.
template <int n, class X, class F> INLINE auto folded(X x, F both) {
  for (int k = 0; k < n; ++k) x[k] = both(x[k], x[k + n]);
  if constexpr (n == 1) return x[0];
  else return folded<n / 2>(x, both);
}
#ifdef DOUBLE
struct Sum {
  V all = {};
  INLINE_ void add(V x) { all += x; }
  INLINE_ double total() const { return folded<W / 2>(all, [](T a, T b) { return a + b; }); }
};
#else
typedef float Half __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef double Doubles __attribute__((vector_size(VECTOR_BYTES)));
struct Sum {
  Doubles low = {}, high = {};
  INLINE_ void add(V x) {
    Half halves[2];
    memcpy(halves, &x, sizeof x);
    low += __builtin_convertvector(halves[0], Doubles);
    high += __builtin_convertvector(halves[1], Doubles);
  }
  INLINE_ double total() const { return folded<W / 4>(low + high, [](double a, double b) { return a + b; }); }
};
#endif
// A maximum, and apart from it whether there was a NaN: the next one must not wait long for this one.
struct Most {
  V most = up(-INFINITY);
  M none = {};
  INLINE_ void take(V x) {
    most = x > most ? x : most;
    none |= x != x;
  }
  INLINE_ double total() const {
    T x = folded<W / 2>(most, [](T a, T b) { return larger(a, b); });
    return folded<W / 2>(none, [](TI a, TI b) { return a | b; }) ? NAN : x;
  }
};

INLINE double together(char how, double a, double b) {
  return how == 'm' || how == 'x' ? double(larger(T(a), T(b))) : how == 'n' ? b : a + b;
}

// The largest magnitude so far, as its bits: integers, of which a NaN's are the largest.
INLINE M above(M most, V x) { M b = bits(size(x)); return most > b ? most : b; }
INLINE T largest(M most) {
  TI b = folded<W / 2>(most, [](TI a, TI b) { return a > b ? a : b; });
  T x;
  memcpy(&x, &b, sizeof x);
  return x;
}

// A whole vector, or a part of one.
struct Whole { enum { value = 0 }; };
struct Part { enum { value = 1 }; };
// So many rows.
template <int n> struct Rows { enum { value = n }; };
