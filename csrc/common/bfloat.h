// bfloat16 values among float32 arithmetic. Included inside the namespace of an instruction set, so
// that its functions are compiled for that one.

struct Bfloat {
  uint16_t bits;
};

inline float widen(float value) { return value; }

inline float widen(Bfloat value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float wide;
  __builtin_memcpy(&wide, &bits, sizeof(wide));
  return wide;
}

inline void narrow(float value, float& result) { result = value; }

// Rounded to nearest, ties to even.
inline void narrow(float value, Bfloat& result) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  result.bits = static_cast<uint16_t>(value != value ? (bits >> 16) | 0x40 : rounded);
}
