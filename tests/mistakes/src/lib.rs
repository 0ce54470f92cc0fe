//! What the compiler says about what users get wrong most. The test in `tests/` compiles the programs in `cases/`.
//!
//! This is a package of its own because each of its dependencies is built once more for these programs: it has few.
