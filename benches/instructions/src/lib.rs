//! Nothing: the benchmarks are in `benches/`, their figures in `figures.txt`.
