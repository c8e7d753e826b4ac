// Codes of small state. A codebook's values grow by decades, each cut into equal parts and numbered on from the one before
// it, so that a number's place and its value follow from each other by a line for each decade. The lines come from small
// tables, which processors look up in registers.

// Numbers, and the one at each lane's index, of which only the lowest bits count: four of a Table, of a Wide one five.
#if VECTOR_BYTES == 64 && !defined(__clang__)
#define LONG
struct Table { float at[16]; };
template <class N> struct Wide { N at[32]; };
INLINE V look(const Table& t, M i) {
  V x;
  memcpy(&x, t.at, 64);
  return __builtin_shuffle(x, i);
}
template <class R, class N> INLINE R look(const Wide<N>& t, M i) {
  R x, y;
  memcpy(&x, t.at, 64);
  memcpy(&y, t.at + 16, 64);
  return __builtin_shuffle(x, y, i);
}
INLINE Table times(Table t, float x) {
  V v;
  memcpy(&v, t.at, sizeof v);
  v *= x;
  asm("" : "+v"(v));  // or what is looked up would be multiplied instead, vector by vector
  memcpy(t.at, &v, sizeof v);
  return t;
}

// By the exponent of a place (plus a half) the line of its decade to its value. By a share's exponent what carries it into
// the next one where its nearest value is of the next decade; and by that, then, the line from shares to places, and the
// last place.
struct Book {
  Table slope, offset;
  Wide<int> carry;
  Wide<float> rise, start, last;
};
struct Values { Table slope, offset; };
INLINE Values values(const Book& b, float scale) { return {times(b.slope, scale), times(b.offset, scale)}; }
struct Places { const Book& b; };
INLINE Places places(const Book& b) { return {b}; }

// The value of a place 0, 1, 2, ..., times the scale.
INLINE V value(M place, const Values& v, float half) {
  V y = __builtin_convertvector(place, V) + half;
  M e = bits(y) >> 23;
  return look(v.slope, e) * y + look(v.offset, e);
}
template <bool is_signed, int zero> INLINE V decoded(M c, const Values& v) {
  if (!is_signed) return value(c, v, 1.5f);
  M n = c - zero;
  return (V)(bits(value(n < 0 ? -n : n, v, 0.5f)) ^ (n & INT32_MIN));
}
// The place of a share 0 to 1, and what is left of it behind the point. The smallest shares, and NaN, are alike.
INLINE V place(V share, const Book& b) {
  V x = raised(share, 1.1920929e-7f);
  M d = (bits(x) + look<M>(b.carry, bits(x) >> 23)) >> 23;
  V n = look<V>(b.rise, d) * x + look<V>(b.start, d), last = look<V>(b.last, d);
  return choose(n < last, n, last);
}
template <bool is_signed, int zero> INLINE M encoded(V share, const Places& p) {
  if (!is_signed) return share > 0 ? __builtin_convertvector(place(share, p.b), M) : M{};
  V n = (V)(bits(place(size(share), p.b)) | (bits(share) & INT32_MIN));
  M c = __builtin_convertvector(n, M) + zero;
  return c > 0 ? c : M{};  // there is a code for 1, but none for -1
}
#else
// Shorter vectors look up eight numbers, by three bits, and are to have them in registers: from memory it takes twice as
// long.
#if defined(__AVX2__) && !defined(__AVX512F__)
typedef V Eight;
INLINE Eight eight(const float* at, float by) {
  V x;
  memcpy(&x, at, sizeof x);
  x *= by;
  asm("" : "+x"(x));
  return x;
}
INLINE V look(const Eight& t, M i) { return __builtin_ia32_permvarsf256(t, i); }
INLINE M signed_as(M n, V x) { return (M)__builtin_ia32_psignd256(n, bits(x)); }
INLINE M upper(M x, int by) {  // the upper half of the product of the lower halves
  typedef int16_t Words __attribute__((vector_size(32)));
  return (M)__builtin_ia32_pmulhuw256((Words)x, (Words)(by - M{}));
}
#else
struct Eight { float at[8]; };
INLINE Eight eight(const float* at, float by) { Eight t; for (int k = 0; k < 8; ++k) t.at[k] = at[k] * by; return t; }
INLINE V look(const Eight& t, M i) { V r; for (int k = 0; k < W; ++k) r[k] = t.at[i[k] & 7]; return r; }
INLINE M signed_as(M n, V x) { M s = bits(x) >> 31; return (n ^ s) - s; }
INLINE M upper(M x, int by) { return x * by >> 16; }
#endif

// By the exponent of a place, times `unit` and `plus`, the line of its decade to its value; zero and one have lines that
// give them exactly, or one that both are on. By a share's decade or the one before it the border to the next one, and the
// rise of the line to places of the one that it is in. Where such a line starts, and its last place, double from decade to
// decade, so the decade is added to their exponents. Shares that are not zero count for no less than `least`.
struct Book { float slope[8], offset[8], unit, plus, border[8], rise[8]; int start, last; float least; };
struct Values { Eight slope, offset; float unit, plus; };
INLINE Values values(const Book& b, float scale) { return {eight(b.slope, scale), eight(b.offset, scale), b.unit, b.plus}; }
struct Places { Eight border, rise; const Book& b; };
INLINE Places places(const Book& b) { return {eight(b.border, 1), eight(b.rise, 1), b}; }

template <bool is_signed, int zero> INLINE V decoded(M c, const Values& v) {
  V f = __builtin_convertvector(c, V) * v.unit + v.plus;
  M e = bits(f) >> 23;
  V offset = look(v.offset, e);
  if (is_signed) offset = (V)(bits(offset) ^ (bits(f) & SIGN));
  return f * look(v.slope, e) + offset;
}
WHOLE_NUMBER int DECADES = 154;  // in 512 octaves, nearly
INLINE V place(V x, const Places& p) {
  M d = upper((M)((U)bits(x) >> 16), DECADES);
  d -= (M)(x >= look(p.border, d));
  M e = d << 23;
  V n = look(p.rise, d) * x + (V)(e + p.b.start), last = (V)(e + p.b.last);
  return n < last ? n : last;
}
template <bool is_signed, int zero> INLINE M encoded(V share, const Places& p) {
  if (!is_signed) return (__builtin_convertvector(place(raised(share, p.b.least), p), M) - 1) & (share > 0);
  M c = signed_as(__builtin_convertvector(place(size(share), p), M), share) + zero;
  return c > 0 ? c : M{};
}
#endif
template <bool part> INLINE M code(const uint8_t* p, int rest, int64_t ahead) {
  if (ahead && !part) __builtin_prefetch(p + ahead);
  return widened(raw<part>(p, rest));
}
template <bool part> INLINE void put(uint8_t* p, const M (&x)[1], int rest) {
  Bytes y = bytes(x[0]);
  give<part>(p, (const uint8_t*)&y, rest);
}
template <bool part> INLINE void put(uint8_t* p, const M (&x)[4], int) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  typedef int16_t Words __attribute__((vector_size(32)));
  const Words low = (Words)__builtin_ia32_packusdw256(x[0], x[1]), high = (Words)__builtin_ia32_packusdw256(x[2], x[3]);
  const M all = __builtin_ia32_permvarsi256((M)__builtin_ia32_packuswb256(low, high), M{0, 4, 1, 5, 2, 6, 3, 7});
  memcpy(p, &all, sizeof all);
#else
  for (int k = 0; k < 4; ++k) put<false>(p + k * W, {x[k]}, W);
#endif
}
INLINE M encoded_evenly(V share) {
  V n = whole(share * 16 - 0.5f);
  return __builtin_convertvector(choose(n > 0, choose(n < 15, n, up(15)), V{}), M);
}

INLINE void keep(float* to, V x) { memcpy(to, &x, sizeof x); }

// A number's last 16 bits rounded away, up or down at random, by a hash of its position.
WHOLE_NUMBER uint32_t HASH = 0x45D9F3B, LOW = 0xffff, HIGH = 0xffff0000;
INLINE V at_random(V x, int64_t position, uint32_t seed) {
  U h = ((U)lanes() + (uint32_t)position + seed * 0x9E3779B1u) * HASH;
  h = (h ^ (h >> 16)) * HASH;
  U b = (U)x;
  V rounded = (V)((b + ((h ^ (h >> 16)) & LOW)) & HIGH);
  // Neither a number that would become infinite nor NaN is rounded up.
  return choose(is_finite(rounded) & (x == x), rounded, (V)(b & HIGH));
}
// To the nearest bfloat16, but still float32.
INLINE V rounded(V x) {
  U b = (U)x;
  return choose(is_finite(x), (V)((b + TIE + ((b >> 16) & LAST)) & HIGH), x);
}
