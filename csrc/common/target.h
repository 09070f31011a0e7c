// Compiles what stands between FASTI3D_TARGET_BEGIN_<ISA> and FASTI3D_TARGET_END for that
// instruction set. Include every standard header before, so that none of their inline functions is
// emitted with instructions an older CPU lacks and then shared by the whole library.
//
// FASTI3D_NO_CONTRACTION keeps products and sums after it two operations, each rounded, where the
// instruction set could fuse them: for results that are the same on every instruction set.
//
// FASTI3D_NO_SCHEDULING keeps GCC from moving loads up before it has chosen registers: with a tile
// that fills them all it would spill one in the inner loop.
//
// FASTI3D_NEON_BF16: the compiler has FEAT_BF16's intrinsics for single functions.
#pragma once

#if defined(__aarch64__) && (!defined(__clang__) || __clang_major__ >= 16)
#define FASTI3D_NEON_BF16
#endif

#define FASTI3D_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define FASTI3D_TARGET_BEGIN(isa) \
  FASTI3D_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define FASTI3D_TARGET_512_BEGIN(isa) FASTI3D_TARGET_BEGIN(isa)
#define FASTI3D_TARGET_END FASTI3D_PRAGMA(clang attribute pop)
#define FASTI3D_NO_CONTRACTION FASTI3D_PRAGMA(clang fp contract(off))
#define FASTI3D_NO_SCHEDULING
#else
#define FASTI3D_TARGET_BEGIN(isa) FASTI3D_PRAGMA(GCC push_options) FASTI3D_PRAGMA(GCC target(isa))
// For loops that it vectorizes by itself, in which GCC prefers vectors of half that size.
#define FASTI3D_TARGET_512_BEGIN(isa) \
  FASTI3D_PRAGMA(GCC push_options) FASTI3D_PRAGMA(GCC target(isa, "prefer-vector-width=512"))
#define FASTI3D_TARGET_END FASTI3D_PRAGMA(GCC pop_options)
#define FASTI3D_NO_CONTRACTION FASTI3D_PRAGMA(GCC optimize("fp-contract=off"))
#define FASTI3D_NO_SCHEDULING FASTI3D_PRAGMA(GCC optimize("no-schedule-insns"))
#endif
