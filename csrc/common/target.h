// Compiles what stands between FASTI3D_TARGET_BEGIN_<ISA> and FASTI3D_TARGET_END for that
// instruction set. Include every standard header before, so that none of their inline functions is
// emitted with instructions an older CPU lacks and then shared by the whole library.
#pragma once

#define FASTI3D_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define FASTI3D_TARGET_BEGIN(isa) \
  FASTI3D_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define FASTI3D_TARGET_END FASTI3D_PRAGMA(clang attribute pop)
#else
#define FASTI3D_TARGET_BEGIN(isa) FASTI3D_PRAGMA(GCC push_options) FASTI3D_PRAGMA(GCC target(isa))
#define FASTI3D_TARGET_END FASTI3D_PRAGMA(GCC pop_options)
#endif
