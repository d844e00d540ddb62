// Op rope: cosines and sines of the rows' positions.
//
// in:    args.frequencies [pairs] f64
// out:   args.rotations [rows, pairs] (cos, sin) f32, times args.magnitude; computed in f64
// bytes: pairs * 8 * (rows + 1)
#pragma once

#include "kilotok/persistent/block.cuh"

namespace kilotok::ops {

// Cosine and sine of an angle of at most 2^20 turns; without the tables that larger ones need.
__device__ __forceinline__ void cos_sin(double angle, double& cosine, double& sine) {
  // pi / 2 in three parts; quarter turns are exact up to 2^53 ulps of the first part.
  const double quarters = rint(angle * 0.63661977236758134308);
  double rest = fma(-quarters, 1.57079632679489655800, angle);
  rest = fma(-quarters, 6.12323399573676603587e-17, rest);
  sincospi(rest * 0.31830988618379067154, &sine, &cosine);
  const int quarter = static_cast<int>(static_cast<long long>(quarters) & 3);
  if (quarter % 2 == 1) {
    const double old = cosine;
    cosine = -sine;
    sine = old;
  }
  if (quarter >= 2) {
    cosine = -cosine;
    sine = -sine;
  }
}

__device__ __forceinline__ void rope(const KilotokRope& args, const Block& block) {
  const auto* frequencies = reinterpret_cast<const double*>(args.frequencies);
  auto* rotations = reinterpret_cast<float2*>(args.rotations);
  const uint32_t count = block.pass->rows * args.pairs;
  for (uint32_t i = block.thread * block.count + block.index; i < count;
       i += MATH_THREADS * block.count) {
    const uint32_t row = i / args.pairs;
    double cosine, sine;
    cos_sin(static_cast<double>(block.pass->row[row].position) *
                __ldg(frequencies + (i - row * args.pairs)),
            cosine, sine);
    const double magnitude = static_cast<double>(args.magnitude);
    rotations[i] =
        make_float2(static_cast<float>(cosine * magnitude), static_cast<float>(sine * magnitude));
  }
}

}  // namespace kilotok::ops
