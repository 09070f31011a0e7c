// Compiles what stands between FASTI3D_TARGET_BEGIN_<ISA> and FASTI3D_TARGET_END for that
// instruction set. Include every standard header before, so that none of their inline functions is
// emitted with instructions an older CPU lacks and then shared by the whole library.
//
// FASTI3D_NO_CONTRACTION keeps products and sums after it two operations, each rounded, where the
// instruction set could fuse them: for results that are the same on every instruction set.
#pragma once

#define FASTI3D_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define FASTI3D_TARGET_BEGIN(isa) \
  FASTI3D_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define FASTI3D_TARGET_END FASTI3D_PRAGMA(clang attribute pop)
#define FASTI3D_NO_CONTRACTION FASTI3D_PRAGMA(clang fp contract(off))
#else
#define FASTI3D_TARGET_BEGIN(isa) FASTI3D_PRAGMA(GCC push_options) FASTI3D_PRAGMA(GCC target(isa))
#define FASTI3D_TARGET_END FASTI3D_PRAGMA(GCC pop_options)
#define FASTI3D_NO_CONTRACTION FASTI3D_PRAGMA(GCC optimize("fp-contract=off"))
#endif
