// Codes of small state. A codebook's values grow by decades, each cut into equal parts and numbered on from the one before
// it, so that a number's place and its value follow from each other by a line for each decade. The lines come from small
// tables, which processors look up in registers.

// Sixteen numbers, and the one at each lane's index, of which only the lowest four bits count (five of Wide).
struct Table { float at[16]; };
template <class N> struct Wide { N at[32]; };
INLINE Table times(Table t, float x) {
  for (int k = 0; k < 16; k += W) {
    V v;
    memcpy(&v, t.at + k, sizeof v);
    v *= x;
#if VECTOR_BYTES == 64 && !defined(__clang__)
    asm("" : "+v"(v));  // or what is looked up would be multiplied instead, vector by vector
#endif
    memcpy(t.at + k, &v, sizeof v);
  }
  return t;
}
INLINE V look(const Table& t, M i) {
#if VECTOR_BYTES == 64 && !defined(__clang__)
  V x;
  memcpy(&x, t.at, 64);
  return __builtin_shuffle(x, i);
#else
  V r; for (int k = 0; k < W; ++k) r[k] = t.at[i[k] & 15]; return r;
#endif
}
template <class R, class N> INLINE R look(const Wide<N>& t, M i) {
#if VECTOR_BYTES == 64 && !defined(__clang__)
  R x, y;
  memcpy(&x, t.at, 64);
  memcpy(&y, t.at + 16, 64);
  return __builtin_shuffle(x, y, i);
#else
  R r; for (int k = 0; k < W; ++k) r[k] = t.at[i[k] & 31]; return r;
#endif
}

// By the exponent of a place (plus a half) its decade's line. By that of a share what carries it into the next exponent
// where its nearest value is of the next decade; and by that, then, the line from shares to codes, and the last code.
struct Book { Table slope, offset; Wide<int> carry; Wide<float> rise, start, last; };

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
  return look(slope, e) * y + look(offset, e);
}
// The code of a share 0 to 1, and what is left of it behind the point. The smallest shares, and NaN, are alike.
INLINE V place(V share, const Book& b) {
  constexpr float least = 1.1920929e-7f;
#if VECTOR_BYTES == 64 && !defined(__clang__)
  V x = __builtin_ia32_maxps512_mask(share, up(least), V{}, 0xffff, 4);
#else
  V x = choose(share > least, share, up(least));
#endif
  M d = (bits(x) + look<M>(b.carry, bits(x) >> 23)) >> 23;
  V n = look<V>(b.rise, d) * x + look<V>(b.start, d), last = look<V>(b.last, d);
  return choose(n < last, n, last);
}
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
