// The arithmetic of TV-L1 at one pixel, for the CPU and the GPU alike (Zach, Pock and Bischof
// 2007).
//
// Included inside a namespace that has defined, for its V (a float, or a vector with one pixel per
// lane): FASTI3D_HOST_DEVICE, broadcast<V>(float), larger, smaller, root and reciprocal.
//
// The order of the operations is part of the contract: without contraction and with IEEE division
// and square root every form of the solver gives the same bits, and so does the reference in
// fasti3d/ops/tvl1/reference.py. Against the usual way of writing it four divisions of five are
// saved: 1 / |grad I1|^2 is the same in all iterations of a warp, and the duals share a reciprocal.

// |grad I1|^2 counts as no less than this, so that nothing is divided by zero. In a flat pixel the
// limit of the step, lambda * theta * |grad I1|, is as good as nothing anyway.
constexpr float kMinGradient = 1e-12f;

// One warp's constants at a pixel: the warped gradient, 1 / its square, and the part of the
// residual that does not depend on u.
template <class V>
struct Data {
  V ix, iy, inverse, rho;
};

template <class V>
FASTI3D_HOST_DEVICE inline Data<V> linearize(V i0, V i1, V ix, V iy, V u1, V u2) {
  const V square = larger(ix * ix + iy * iy, broadcast<V>(kMinGradient));
  return {ix, iy, reciprocal(square), ((i1 - ix * u1) - iy * u2) - i0};
}

// The thresholding step along (ix, iy, gamma), negated: towards zero residual, but no further than
// limit = lambda * theta.
template <class V>
FASTI3D_HOST_DEVICE inline V threshold(V rho, V inverse, V limit) {
  return smaller(larger(rho * inverse, broadcast<V>(0.0f) - limit), limit);
}

// Divergence of a dual variable: backward differences, p = 0 outside.
template <class V>
FASTI3D_HOST_DEVICE inline V divergence(V px, V px_left, V py, V py_up) {
  return (px - px_left) + (py - py_up);
}

// A component of u after the thresholding step along its gradient and the step along the
// divergence.
template <class V>
FASTI3D_HOST_DEVICE inline V primal(V u, V step, V gradient, V theta, V div) {
  return (u - step * gradient) + theta * div;
}

// 1 + (tau / theta) |grad u|, from forward differences.
template <class V>
FASTI3D_HOST_DEVICE inline V dual_norm(V ux, V uy, V taut) {
  return broadcast<V>(1.0f) + taut * root(ux * ux + uy * uy);
}

// 1 / norm of both duals, by one division: r = 1 / (n1 * n2), 1 / n1 = r * n2, 1 / n2 = r * n1.
template <class V>
struct Scales {
  V first, second;
};

template <class V>
FASTI3D_HOST_DEVICE inline Scales<V> dual_scales(V norm1, V norm2) {
  const V both = reciprocal(norm1 * norm2);
  return {both * norm2, both * norm1};
}

// A component of a dual variable; scale is 1 / its norm.
template <class V>
FASTI3D_HOST_DEVICE inline V dual(V p, V taut, V gradient, V scale) {
  return (p + taut * gradient) * scale;
}

// Weights of the four taps of a bicubic sample whose second tap lies `t` before it, 0 <= t < 1.
// The kernel's parameter is -0.75 in OpenCV's CPU form and -0.5 in its CUDA form.
template <class V>
struct Taps {
  V w[4];
};

template <class V>
FASTI3D_HOST_DEVICE inline V bicubic_inner(V t, V a) {
  return ((a + broadcast<V>(2.0f)) * t - (a + broadcast<V>(3.0f))) * t * t + broadcast<V>(1.0f);
}

template <class V>
FASTI3D_HOST_DEVICE inline Taps<V> bicubic(V t, V a) {
  const V one = broadcast<V>(1.0f), far = t + one;
  const V w0 = ((a * far - broadcast<V>(5.0f) * a) * far + broadcast<V>(8.0f) * a) * far -
               broadcast<V>(4.0f) * a;
  const V w1 = bicubic_inner(t, a), w2 = bicubic_inner(one - t, a);
  return {{w0, w1, w2, ((one - w0) - w1) - w2}};
}

// A bicubic sample, along y first: each column is ((w0 a0 + w1 a1) + w2 a2) + w3 a3 down its four
// taps, and `sample` takes the four columns.
template <class V>
FASTI3D_HOST_DEVICE inline V sample(const Taps<V>& x, V c0, V c1, V c2, V c3) {
  return (x.w[0] * c0 + x.w[2] * c2) + (x.w[1] * c1 + x.w[3] * c3);
}
