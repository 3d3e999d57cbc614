#include "bindings.hpp"
#include "cna/torch/conversation.hpp"
#include "cna/torch/sweep.hpp"
#include "cna/torch/watch.hpp"

namespace cna::python {

void bind_generate(py::module_& m, py::class_<Model>& model) {
  py::class_<Conversation>(m, "Conversation",
                           "A prompt that grows turn by turn, on the keys and values of its turns.")
      .def(py::init<Model&>(), py::arg("model"), py::keep_alive<1, 2>())
      .def(
          "answer",
          [](Conversation& self, const TokenIds& prompt, int64_t max_new_tokens, double temperature,
             int64_t top_k, double top_p, uint64_t seed,
             const std::optional<py::function>& on_token, const py::kwargs& run) {
            const RunOptions options = run_options(run);
            GenerateOptions generation{max_new_tokens, temperature, top_k, top_p, seed};
            generation.on_token = token_listener(on_token);
            py::gil_scoped_release release;
            return self.answer(prompt, generation, options);
          },
          py::arg("prompt"), py::arg("max_new_tokens") = 64, py::arg("temperature") = 0.0,
          py::arg("top_k") = 0, py::arg("top_p") = 1.0, py::arg("seed") = 0,
          py::arg("on_token") = py::none(),
          "Answer to a whole prompt as token ids; what it shares with the turns so far is kept. "
          "on_token(0, token) is called with each as it is written.")
      .def_property_readonly("tokens", &Conversation::tokens,
                             "Tokens whose keys and values are held.")
      .def_property_readonly("reused", &Conversation::reused,
                             "Tokens of the last prompt that were not computed again.")
      .def("clear", &Conversation::clear, "Forgets all turns.");
  model.def(
      "logits",
      [](Model& self, const Prompts& prompts, const py::kwargs& run) {
        const RunOptions options = run_options(run);
        py::gil_scoped_release release;
        return last_logits(self, prompts, options);
      },
      py::arg("prompts"), "Logits behind each prompt, float32 [n_prompts, vocab].");
  model.def(
      "generate",
      [](Model& self, const Prompts& prompts, int64_t max_new_tokens, double temperature,
         int64_t top_k, double top_p, uint64_t seed, std::vector<int64_t> eos_ids, bool ignore_eos,
         const std::optional<py::function>& on_token, Watch* watch, const py::kwargs& run) {
        const RunOptions options = run_options(run);
        const GenerateOptions generation{
            max_new_tokens, temperature,        top_k,      top_p,
            seed,           std::move(eos_ids), ignore_eos, token_listener(on_token)};
        py::gil_scoped_release release;
        return generate(self, prompts, generation, options, watch);
      },
      py::arg("prompts"), py::arg("max_new_tokens") = 64, py::arg("temperature") = 0.0,
      py::arg("top_k") = 0, py::arg("top_p") = 1.0, py::arg("seed") = 0,
      py::arg("eos_ids") = std::vector<int64_t>(), py::arg("ignore_eos") = false,
      py::arg("on_token") = py::none(), py::arg("watch") = py::none(),
      "Answers as token ids, without prompt and end token. on_token(prompt, token) is called with "
      "each as it is written; a Watch reads its gate's score at each.");
  model.def(
      "answer_jobs",
      [](Model& self, const std::vector<Intervention>& arms, const Prompts& prompts,
         const std::vector<std::pair<int64_t, int64_t>>& jobs, int64_t max_new_tokens,
         const py::object& sink, const py::kwargs& run) {
        const RunOptions options = run_options(run);
        std::vector<SweepJob> wanted;
        for (const auto& [arm, prompt] : jobs) wanted.push_back({arm, prompt});
        GenerateOptions generation;
        generation.max_new_tokens = max_new_tokens;
        py::gil_scoped_release release;
        answer_jobs(self, arms, prompts, wanted, generation, options,
                    [&](std::span<const SweepJob> done, std::span<const TokenIds> answers) {
                      py::gil_scoped_acquire gil;
                      std::vector<std::pair<int64_t, int64_t>> which;
                      for (const SweepJob& job : done) which.emplace_back(job.arm, job.prompt);
                      sink(which, Prompts(answers.begin(), answers.end()));
                    });
      },
      py::arg("arms"), py::arg("prompts"), py::arg("jobs"), py::arg("max_new_tokens"),
      py::arg("sink"),
      "Greedy answers of (arm, prompt) jobs; calls sink(jobs, answers) batch by batch.");
  model.def(
      "log_likelihood",
      [](Model& self, const Prompts& prompts, const Prompts& continuations, const py::kwargs& run) {
        const RunOptions options = run_options(run);
        py::gil_scoped_release release;
        return log_likelihood(self, prompts, continuations, options);
      },
      py::arg("prompts"), py::arg("continuations"),
      "Sum of log probabilities of each continuation, nats, float64 [n].");
  model.def(
      "divergence",
      [](Model& self, const Prompts& prompts, const Prompts& continuations, const py::kwargs& run) {
        const RunOptions options = run_options(run);
        py::gil_scoped_release release;
        Divergence out = divergence(self, prompts, continuations, options);
        return std::pair(out.kl, out.log_likelihood);
      },
      py::arg("prompts"), py::arg("continuations"),
      "(KL from arm 0, log likelihood), each float64 [arms, n].");
  model.def(
      "prompt_divergence",
      [](Model& self, const Prompts& prompts, const Prompts& other_prompts,
         const Prompts& continuations, const py::kwargs& run) {
        const RunOptions options = run_options(run);
        py::gil_scoped_release release;
        return prompt_divergence(self, prompts, other_prompts, continuations, options);
      },
      py::arg("prompts"), py::arg("other_prompts"), py::arg("continuations"),
      "KL of other prompts under the last arm from these under arm 0, float64 [n].");
}

}  // namespace cna::python
