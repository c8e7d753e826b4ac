// Codes of small state. A codebook's values grow by decades, each cut into equal parts and numbered on from the one before
// it, so that a number's place and its value follow from each other by a line for each decade. The lines come from small
// tables, which processors look up in registers.

// Numbers, and the one at each lane's index, of which only the lowest bits count: four of a Table, of a Wide one five. Where
// vectors are not long enough for the latter, three bits of a Table count, and its first eight numbers.
struct Table { float at[16]; };
template <class N> struct Wide { N at[32]; };
#if VECTOR_BYTES == 64 && !defined(__clang__)
#define LONG
#endif
INLINE Table times(Table t, float x) {
  for (int k = 0; k < 16; k += W) {
    V v;
    memcpy(&v, t.at + k, sizeof v);
    v *= x;
#ifdef LONG
    asm("" : "+v"(v));  // or what is looked up would be multiplied instead, vector by vector
#endif
    memcpy(t.at + k, &v, sizeof v);
  }
  return t;
}
INLINE V look(const Table& t, M i) {
#ifdef LONG
  V x;
  memcpy(&x, t.at, 64);
  return __builtin_shuffle(x, i);
#elif defined(__AVX2__) && !defined(__AVX512F__)
  V x;
  memcpy(&x, t.at, 32);
  return __builtin_ia32_permvarsf256(x, i);
#else
  V r; for (int k = 0; k < W; ++k) r[k] = t.at[i[k] & 7]; return r;
#endif
}
#ifdef LONG
template <class R, class N> INLINE R look(const Wide<N>& t, M i) {
  R x, y;
  memcpy(&x, t.at, 64);
  memcpy(&y, t.at + 16, 64);
  return __builtin_shuffle(x, y, i);
}
#endif

// By a share's exponent what carries it into the next one where its nearest value is of the next decade; and by that, then,
// the line from shares to places, and the last place.
struct Exponents { Wide<int> carry; Wide<float> rise, start, last; };
// The same by decades: the border to the next one, the line, and the last place. An exponent times log10(2), and `shift`,
// is a share's decade or the one before it. Below `least` all are alike; from `top` on the place is `most`, that of one.
struct Decades { Table border, rise, start, last; int shift; float least, top, most; };
// By the exponent of a place (plus a half) the line of its decade to its value, and ways back from shares to places.
struct Book { Table slope, offset; Exponents exponents; Decades decades; };

template <bool part> INLINE M code(const uint8_t* p, int rest) {
  return widened(raw<part>(p, rest));
}
template <bool part> INLINE void put(uint8_t* p, M x, int rest) {
  Bytes y = bytes(x);
  give<part>(p, (const uint8_t*)&y, rest);
}
// The value of a place 0, 1, 2, ... times the scale that `slope` and `offset` have been multiplied by.
INLINE V value(M place, Table slope, Table offset, float shift) {
  V y = __builtin_convertvector(place, V) + shift;
  M e = bits(y) >> 23;
  V x = look(slope, e) * y + look(offset, e);
#ifdef LONG
  return x;
#else
  return choose(place > 0, x, V{});  // three bits do not tell its exponent from that of one
#endif
}
// The place of a share 0 to 1, and what is left of it behind the point. The smallest shares, and NaN, are alike.
#ifdef LONG
INLINE V place(V share, const Book& book) {
  const Exponents& b = book.exponents;
  V x = raised(share, 1.1920929e-7f);
  M d = (bits(x) + look<M>(b.carry, bits(x) >> 23)) >> 23;
  V n = look<V>(b.rise, d) * x + look<V>(b.start, d), last = look<V>(b.last, d);
  return choose(n < last, n, last);
}
#else
typedef int16_t Words __attribute__((vector_size(VECTOR_BYTES)));  // which processors multiply faster than integers
INLINE V place(V share, const Book& book) {
  const Decades& b = book.decades;
  V x = raised(share, b.least);
  M d = ((M)((Words)(bits(x) >> 23) * 77) + b.shift) >> 8;
  d = x >= look(b.border, d) ? d + 1 : d;
  V n = look(b.rise, d) * x + look(b.start, d), last = look(b.last, d);
  return choose(x < b.top, choose(n < last, n, last), up(b.most));
}
#endif
INLINE M magnitude(M n) { return n < 0 ? -n : n; }
template <bool is_signed, int zero> INLINE V decoded(M c, const Table& slope, const Table& offset) {
  if (!is_signed) return value(c, slope, offset, 1.5f);
  M n = c - zero;
  return (V)(bits(value(magnitude(n), slope, offset, 0.5f)) ^ (n & INT32_MIN));
}
template <bool is_signed, int zero> INLINE M encoded(V share, const Book& b) {
  if (!is_signed) return share > 0 ? __builtin_convertvector(place(share, b), M) : M{};
  V n = (V)(bits(place(size(share), b)) | (bits(share) & INT32_MIN));
  M c = __builtin_convertvector(n, M) + zero;
  return c > 0 ? c : M{};  // there is a code for 1, but none for -1
}
INLINE M encoded_evenly(V share) {
  V n = whole(share * 16 - 0.5f);
  return __builtin_convertvector(choose(n > 0, choose(n < 15, n, up(15)), V{}), M);
}

INLINE void keep(float* to, V x) { memcpy(to, &x, sizeof x); }

// A number's last 16 bits rounded away, up or down at random, by a hash of its position.
INLINE V at_random(V x, int64_t position, uint32_t seed) {
  U h = ((U)lanes() + (uint32_t)position + seed * 0x9E3779B1u) * 0x45D9F3Bu;
  h = (h ^ (h >> 16)) * 0x45D9F3Bu;
  U b = (U)x;
  V rounded = (V)((b + ((h ^ (h >> 16)) & 0xffff)) & 0xffff0000u);
  return choose(is_finite(x), choose(is_finite(rounded), rounded, (V)(b & 0xffff0000u)), x);
}
// To the nearest bfloat16, but still float32.
INLINE V rounded(V x) {
  U b = (U)x;
  return choose(is_finite(x), (V)((b + 0x7fff + ((b >> 16) & 1)) & 0xffff0000u), x);
}
