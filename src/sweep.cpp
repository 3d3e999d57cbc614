#include "cna/torch/sweep.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "cna/error.hpp"
#include "finite.hpp"

namespace cna {
namespace {

void require_jobs(std::span<const Intervention> arms, size_t prompts,
                  std::span<const SweepJob> jobs) {
  for (const Intervention& arm : arms) {
    if (arm.arms() != 1)
      throw_value_error("sweep: expected one strength per arm, got {}; pass each as an arm",
                        arm.arms());
  }
  for (const SweepJob& job : jobs) {
    if (job.arm < 0 || job.arm >= static_cast<int64_t>(arms.size()) || job.prompt < 0 ||
        job.prompt >= static_cast<int64_t>(prompts))
      throw_index_error(
          "sweep: expected jobs of {} arms and {} prompts, got arm {}, prompt {}; count from 0",
          arms.size(), prompts, job.arm, job.prompt);
  }
}

/// The batch's run: only the arms that it uses, behind what the caller steers anyway.
RunOptions options_of(std::span<const SweepJob> jobs, std::span<const Intervention> arms,
                      const RunOptions& options) {
  RunOptions run = options;
  run.arm_of_prompt.clear();
  std::vector<int64_t> used;
  std::vector<Intervention> parts;
  for (const SweepJob& job : jobs) {
    auto place = std::find(used.begin(), used.end(), job.arm);
    if (place == used.end()) {
      parts.push_back(arms[static_cast<size_t>(job.arm)]);
      place = used.insert(used.end(), job.arm);
    }
    run.arm_of_prompt.push_back(place - used.begin());
  }
  run.intervention = options.intervention.then(Intervention::concat(parts));
  return run;
}

/// Jobs that run together: the prefix of their prompts is kept once for each of their arms.
std::vector<std::span<const SweepJob>> parts(std::span<const SweepJob> jobs, size_t batch_rows) {
  constexpr size_t kArms = 16, kBatches = 8;
  std::vector<std::span<const SweepJob>> out;
  for (size_t first = 0; first < jobs.size();) {
    std::set<int64_t> arms;
    size_t end = first;
    for (; end < jobs.size() && end - first < kBatches * batch_rows; ++end) {
      arms.insert(jobs[end].arm);
      if (arms.size() > kArms && end - first >= batch_rows) break;
    }
    out.push_back(jobs.subspan(first, end - first));
    first = end;
  }
  return out;
}

}  // namespace

void answer_jobs(Model& model, std::span<const Intervention> arms,
                 std::span<const TokenIds> prompts, std::span<const SweepJob> jobs,
                 const GenerateOptions& generation, const RunOptions& options,
                 const SweepSink& sink) {
  require_jobs(arms, prompts.size(), jobs);
  if (options.intervention.arms() != 1)
    throw_value_error(
        "sweep: expected steering with one strength around a sweep, got {} strengths; give each "
        "its own arm",
        options.intervention.arms());
  const auto keep_at = static_cast<size_t>(std::max<int64_t>(options.batch_rows, 1));
  std::vector<SweepJob> done;
  std::vector<TokenIds> answers;
  const auto keep = [&] {
    const auto jobs_done = std::exchange(done, {});
    const auto written = std::exchange(answers, {});
    if (!jobs_done.empty()) sink(jobs_done, written);
  };
  const auto job_of = [&](int64_t number) {
    return jobs[static_cast<size_t>(number - generation.first_prompt)];
  };
  size_t finished = 0;
  for (const auto& part : parts(jobs, keep_at)) {
    std::vector<TokenIds> asked;
    for (const SweepJob& job : part) asked.push_back(prompts[static_cast<size_t>(job.prompt)]);
    RunOptions run = options_of(part, arms, options);
    run.progress = nullptr;
    GenerateOptions listened = generation;
    listened.first_prompt += part.data() - jobs.data();
    listened.on_answer = [&](int64_t number, const TokenIds& answer) {
      done.push_back(job_of(number)), answers.push_back(answer);
      if (generation.on_answer) generation.on_answer(number, answer);
      ++finished;
      if (done.size() < keep_at) return;
      keep();
      if (options.progress)
        options.progress(static_cast<int64_t>(finished), static_cast<int64_t>(jobs.size()));
    };
    try {
      (void)generate(model, asked, listened, run);
    } catch (const NonFinite& error) {
      keep();
      if (error.prompt() < 0) throw;
      const SweepJob job = job_of(error.prompt());
      throw_meaningless("sweep", job.prompt, error.token(), job.arm);
    } catch (...) {
      keep();  // what was finished before; nothing, where the sink itself failed
      throw;
    }
    keep();
    if (options.progress)
      options.progress(static_cast<int64_t>(finished), static_cast<int64_t>(jobs.size()));
  }
}

Sweep sweep(Model& model, std::span<const Intervention> arms, std::span<const TokenIds> prompts,
            const GenerateOptions& generation, const RunOptions& options) {
  if (arms.empty()) throw_value_error("sweep: expected at least one arm, got none; pass strengths");
  std::vector<SweepJob> jobs;
  for (size_t arm = 0; arm < arms.size(); ++arm)
    for (size_t prompt = 0; prompt < prompts.size(); ++prompt)
      jobs.push_back({static_cast<int64_t>(arm), static_cast<int64_t>(prompt)});
  Sweep out;
  out.answers.assign(arms.size(), std::vector<TokenIds>(prompts.size()));
  answer_jobs(
      model, arms, prompts, jobs, generation, options,
      [&](std::span<const SweepJob> done, std::span<const TokenIds> answers) {
        for (size_t i = 0; i < done.size(); ++i)
          out.answers[static_cast<size_t>(done[i].arm)][static_cast<size_t>(done[i].prompt)] =
              answers[i];
      });
  std::vector<TokenIds> asked, said;
  std::vector<int64_t> numbers;
  for (size_t prompt = 0; prompt < prompts.size(); ++prompt) {
    if (out.answers[0][prompt].empty()) continue;
    asked.push_back(prompts[prompt]);
    said.push_back(out.answers[0][prompt]);
    numbers.push_back(static_cast<int64_t>(prompt));
  }
  const auto all = [&] {
    return at::full({static_cast<int64_t>(arms.size()), static_cast<int64_t>(prompts.size())},
                    std::numeric_limits<double>::quiet_NaN(), at::kDouble);
  };
  out.along_reference = {all(), all()};
  if (asked.empty()) return out;
  RunOptions run = options;
  run.intervention = options.intervention.then(
      Intervention::concat(std::vector<Intervention>(arms.begin(), arms.end())));
  const Divergence found = [&] {
    try {
      return divergence(model, asked, said, run);
    } catch (const NonFinite& error) {
      if (error.prompt() < 0) throw;
      throw_meaningless("sweep", numbers[static_cast<size_t>(error.prompt())], error.token());
    }
  }();
  const at::Tensor index = at::tensor(numbers, at::kLong);
  out.along_reference.kl.index_copy_(1, index, found.kl);
  out.along_reference.log_likelihood.index_copy_(1, index, found.log_likelihood);
  return out;
}

}  // namespace cna
