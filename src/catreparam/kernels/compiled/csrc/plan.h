// A schedule and a solver as a list of softmax evaluations, forward and backward.
#pragma once

#include <vector>

#include "call.h"

namespace catreparam {

enum Solver : int32_t { kEuler = 0, kAb2 = 1, kHeun = 2 };

struct Plan {
  std::vector<Evaluation> evaluations;
  std::vector<Adjoint> adjoints;
  std::vector<Interval> intervals;
};

inline Plan make_plan(const double* lambdas, int32_t count, int32_t solver) {
  Plan plan;
  double step_before = 0, a = 0, b = 0;  // a, b: what the next evaluation adds of the last two
  Reach reach = kHere;
  for (int32_t i = 0; i + 1 < count; ++i) {
    const double start = lambdas[i], end = lambdas[i + 1], step = end - start;
    plan.intervals.push_back({(float)start, (float)end, (float)step});
    plan.evaluations.push_back({reach, (float)start, (float)a, (float)b});
    if (solver == kHeun) {
      plan.evaluations.push_back({kPeek, (float)end, (float)step, 0});
      plan.adjoints.push_back({kKeepNothing, (float)(step / 2), (float)(step / 2)});
      plan.adjoints.push_back({kKeepStep, (float)(step / 2), 0});
      a = b = step / 2;
      reach = kTwoBefore;
    } else if (solver == kAb2 && step_before > 0) {
      const double ratio = step / step_before;
      a = step * (1 + ratio / 2);
      b = -step * (ratio / 2);
      plan.adjoints.push_back({kKeepA, (float)a, 0});
      plan.adjoints[(size_t)i - 1].beta = (float)b;
      reach = kTwoBefore;
    } else {
      a = step;
      b = 0;
      plan.adjoints.push_back({solver == kAb2 ? kKeepA : kKeepNothing, (float)step, 0});
      reach = kOneBefore;
    }
    step_before = step;
  }
  plan.evaluations.push_back({reach, (float)lambdas[count - 1], (float)a, (float)b});
  if (plan.evaluations[0].lambda == 0 && plan.evaluations[0].reach == kHere) plan.evaluations[0].reach = kNoise;
  return plan;
}

}  // namespace catreparam
