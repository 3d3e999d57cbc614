/// A sweep gives the same prompts to every arm of an experiment and keeps what comes back.
///
///   interventions x prompts -> answers; along the first arm's answers: KL and log likelihood
///
/// An arm is an intervention with one arm: a circuit at one strength, a vector at one coefficient,
/// or nothing. Rows of one batch may follow different arms.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "cna/export.hpp"
#include "cna/torch/generate.hpp"
#include "cna/torch/score.hpp"

namespace cna {

/// One answer to be written: which arm answers which prompt.
struct SweepJob {
  int64_t arm = 0;
  int64_t prompt = 0;
};

/// Takes the answers of finished jobs, so that a long sweep can be kept on disk and resumed.
using SweepSink =
    std::function<void(std::span<const SweepJob> jobs, std::span<const TokenIds> answers)>;

/// Answers of the jobs, which go to `sink` as they are finished, some `options.batch_rows` at a
/// time. What `options.intervention` does comes before the arm's own; `arm_of_prompt` is not used.
/// For the streams and callbacks of `generation`, a prompt's number is that of its job.
/// @throws IndexError for a job outside arms or prompts; ValueError for an arm of several
/// strengths; NonFinite, with arm, prompt and answer token, where the logits overflowed.
CNA_API void answer_jobs(Model& model, std::span<const Intervention> arms,
                         std::span<const TokenIds> prompts, std::span<const SweepJob> jobs,
                         const GenerateOptions& generation, const RunOptions& options,
                         const SweepSink& sink);

/// What a whole sweep found.
struct Sweep {
  std::vector<std::vector<TokenIds>> answers;  ///< [arms][prompts]
  /// KL(arm 0 || arm) and log likelihood along the answers of arm 0, float64 [arms, prompts]; NaN
  /// where arm 0 answers nothing.
  Divergence along_reference;
};

/// Answers of every arm to every prompt, and what each arm does to the answers of arm 0.
[[nodiscard]] CNA_API Sweep sweep(Model& model, std::span<const Intervention> arms,
                                  std::span<const TokenIds> prompts,
                                  const GenerateOptions& generation = {},
                                  const RunOptions& options = {});

}  // namespace cna
