// The table of plan.py, one softmax evaluation a row, in the form in which the passes run it.
#pragma once

#include <vector>

#include "call.h"

namespace catreparam {

struct Plan {
  std::vector<Evaluation> evaluations;
  std::vector<Adjoint> adjoints;
  std::vector<Interval> intervals;
};

inline Plan make_plan(const CatreparamSetting& setting) {
  Plan plan;
  for (int32_t j = 0; j < setting.num_evaluations; ++j) {
    const double* at = setting.evaluations + 8 * j;
    const float lambda = (float)at[0], to_z1 = (float)at[1], to_z2 = (float)at[2], peek = (float)at[3];
    const Reach reach = peek != 0     ? kPeek
                        : to_z2 != 0  ? kTwoBefore
                        : to_z1 != 0  ? kOneBefore
                        : j == 0 && lambda == 0 ? kNoise
                                      : kHere;
    plan.evaluations.push_back({reach, lambda, reach == kPeek ? peek : to_z1, to_z2});
    const Keep keep = at[6] != 0 ? kKeepA : at[7] != 0 ? kKeepStep : kKeepNothing;
    if (j + 1 < setting.num_evaluations) plan.adjoints.push_back({keep, (float)at[4], (float)at[5]});
  }
  for (int32_t i = 0; i < setting.num_intervals; ++i) {
    const double* at = setting.intervals + 3 * i;
    plan.intervals.push_back({(float)at[0], (float)at[1], (float)at[2]});
  }
  return plan;
}

}  // namespace catreparam
