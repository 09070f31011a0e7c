// The numbers the CUDA solver computes with, and math.h for them.
//
// What is fused into one operation is decided by types, never by the compiler: the same pixel may
// be computed by differently compiled code in another tile, and must come out the same to the bit.
#pragma once

#include <math.h>

#include "../common/host_device.h"

namespace fasti3d::tvl1 {

// Every operation rounded by itself, IEEE division and root: the CPU's bits. Host code needs
// -ffp-contract=off for that.
struct Exact {
  float value;
};

#if defined(__CUDA_ARCH__)
__device__ inline Exact operator+(Exact a, Exact b) { return {__fadd_rn(a.value, b.value)}; }
__device__ inline Exact operator-(Exact a, Exact b) { return {__fsub_rn(a.value, b.value)}; }
__device__ inline Exact operator*(Exact a, Exact b) { return {__fmul_rn(a.value, b.value)}; }
__device__ inline Exact root(Exact a) { return {__fsqrt_rn(a.value)}; }
__device__ inline Exact reciprocal(Exact a) { return {__frcp_rn(a.value)}; }
#else
FASTI3D_HOST_DEVICE inline Exact operator+(Exact a, Exact b) { return {a.value + b.value}; }
FASTI3D_HOST_DEVICE inline Exact operator-(Exact a, Exact b) { return {a.value - b.value}; }
FASTI3D_HOST_DEVICE inline Exact operator*(Exact a, Exact b) { return {a.value * b.value}; }
FASTI3D_HOST_DEVICE inline Exact root(Exact a) { return {sqrtf(a.value)}; }
FASTI3D_HOST_DEVICE inline Exact reciprocal(Exact a) { return {1.0f / a.value}; }
#endif

// A product and the sum it goes into are one operation; division and root are the hardware's
// approximations, good to about two units in the last place.
struct Fast {
  float value;
};

// A product on its way into a sum, or to be rounded if it goes anywhere else.
struct Product {
  float a, b;
  FASTI3D_HOST_DEVICE operator Fast() const;
};

// The sum of two products, likewise.
struct Products {
  Product first, second;
  FASTI3D_HOST_DEVICE operator Fast() const;
};

#if defined(__CUDA_ARCH__)
__device__ inline float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline float rounded(float a, float b) { return __fmul_rn(a, b); }
__device__ inline Fast operator+(Fast a, Fast b) { return {__fadd_rn(a.value, b.value)}; }
__device__ inline Fast operator-(Fast a, Fast b) { return {__fsub_rn(a.value, b.value)}; }
__device__ inline Fast root(Fast a) {
  float result;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(a.value));
  return {result};
}
__device__ inline Fast reciprocal(Fast a) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(a.value));
  return {result};
}
#else
FASTI3D_HOST_DEVICE inline float fused(float a, float b, float c) { return fmaf(a, b, c); }
FASTI3D_HOST_DEVICE inline float rounded(float a, float b) { return a * b; }
FASTI3D_HOST_DEVICE inline Fast operator+(Fast a, Fast b) { return {a.value + b.value}; }
FASTI3D_HOST_DEVICE inline Fast operator-(Fast a, Fast b) { return {a.value - b.value}; }
FASTI3D_HOST_DEVICE inline Fast root(Fast a) { return {sqrtf(a.value)}; }
FASTI3D_HOST_DEVICE inline Fast reciprocal(Fast a) { return {1.0f / a.value}; }
#endif

FASTI3D_HOST_DEVICE inline Product::operator Fast() const { return {rounded(a, b)}; }
FASTI3D_HOST_DEVICE inline Product operator*(Fast a, Fast b) { return {a.value, b.value}; }
FASTI3D_HOST_DEVICE inline Fast operator+(Product p, Fast c) { return {fused(p.a, p.b, c.value)}; }
FASTI3D_HOST_DEVICE inline Fast operator+(Fast c, Product p) { return p + c; }
FASTI3D_HOST_DEVICE inline Fast operator-(Product p, Fast c) { return {fused(p.a, p.b, -c.value)}; }
FASTI3D_HOST_DEVICE inline Fast operator-(Fast c, Product p) { return {fused(-p.a, p.b, c.value)}; }
FASTI3D_HOST_DEVICE inline Fast operator-(Product p, Product q) { return p - Fast(q); }
FASTI3D_HOST_DEVICE inline Products operator+(Product p, Product q) { return {p, q}; }
FASTI3D_HOST_DEVICE inline Products::operator Fast() const { return first + Fast(second); }
FASTI3D_HOST_DEVICE inline Fast operator+(Products p, Fast c) { return p.first + (p.second + c); }
FASTI3D_HOST_DEVICE inline Fast operator+(Fast c, Products p) { return p + c; }
FASTI3D_HOST_DEVICE inline Fast operator+(Products p, Product q) { return p + Fast(q); }
FASTI3D_HOST_DEVICE inline Fast operator+(Products p, Products q) { return p + Fast(q); }

template <class V>
FASTI3D_HOST_DEVICE inline V broadcast(float value) {
  return {value};
}
FASTI3D_HOST_DEVICE inline Exact larger(Exact a, Exact b) { return {fmaxf(a.value, b.value)}; }
FASTI3D_HOST_DEVICE inline Exact smaller(Exact a, Exact b) { return {fminf(a.value, b.value)}; }
FASTI3D_HOST_DEVICE inline Fast larger(Fast a, Fast b) { return {fmaxf(a.value, b.value)}; }
FASTI3D_HOST_DEVICE inline Fast smaller(Fast a, Fast b) { return {fminf(a.value, b.value)}; }

#include "math.h"

}  // namespace fasti3d::tvl1
