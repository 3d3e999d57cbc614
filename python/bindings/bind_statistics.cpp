#include <span>

#include "bindings.hpp"
#include "cna/statistics.hpp"
#include "cna/text_quality.hpp"

namespace cna::python {

void bind_statistics(py::module_& m) {
  m.def(
      "wilson_interval",
      [](int64_t successes, int64_t n, double confidence) {
        const auto interval = wilson_interval(successes, n, confidence);
        return std::pair(interval.low, interval.high);
      },
      py::arg("successes"), py::arg("n"), py::arg("confidence") = 0.95,
      "Wilson score interval (low, high) of a rate.");
  m.def("hypergeometric_upper_tail", &hypergeometric_upper_tail, py::arg("population"),
        py::arg("marked"), py::arg("drawn"), py::arg("shared"), "P[X >= shared], exact.");
  m.def("mcnemar_exact", &mcnemar_exact, py::arg("gained"), py::arg("lost"),
        "Two-sided exact McNemar p for paired yes/no answers.");
  m.def(
      "four_gram_quality",
      [](const std::string& text, int n) { return four_gram_quality(text, n); }, py::arg("text"),
      py::arg("n") = 4, "1 - share of repeated word n-grams, 0 to 1; shorter texts score 1.");
  m.def(
      "n_gram_quality",
      [](const std::vector<int64_t>& items, int n) {
        return n_gram_quality(std::span<const int64_t>(items), n);
      },
      py::arg("items"), py::arg("n") = 4,
      "1 - share of repeated n-grams of token ids, 0 to 1; shorter lists score 1.");
  m.def(
      "composite_quality", [](const std::string& text) { return composite_quality(text); },
      py::arg("text"), "The composite score of the paper's authors' logs, 0 to 1.");
}

}  // namespace cna::python
