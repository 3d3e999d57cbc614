/// Text quality: how little a text repeats itself, as a number between 0 and 1.
///
///   quality = 1 - (n-grams - distinct n-grams) / n-grams,   n-grams of n words in a row, n = 4
///
/// Words are what stands between ASCII white space, so UTF-8 text is never cut inside a character.
/// The same over token ids sees repeats that words miss ("C-C-C-C" is one word).
#pragma once

#include <algorithm>
#include <cstddef>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "cna/error.hpp"

namespace cna {

/// 1 minus the share of repeated word n-grams; 1 for a text with fewer than n words.
/// Throws ValueError if n < 1. Source: arXiv 2605.12290, footnote 1; n = 4 from the authors' code.
[[nodiscard]] inline double four_gram_quality(std::string_view text, int n = 4);

/// The same over a sequence of items, for instance the token ids of an answer; 1 for fewer than n.
/// Throws ValueError if n < 1.
template <class Item>
[[nodiscard]] double n_gram_quality(std::span<const Item> items, int n = 4);

/// The composite score that the paper authors' logs appear to use (the paper prints 1 - r):
///   1 - [.20 repeated 3-grams + .20 repeated 4-grams + .15 (1 - distinct words / words)
///        + .10 adjacent equal sentences + .20 words with a backslash + .05 non-ASCII characters
///        + .10 share of the most frequent word]
/// over words lower-cased in ASCII; sentences end at . ! or ?. Unlike in those logs, the last
/// n-gram of a text counts. 1 for a text without words.
[[nodiscard]] inline double composite_quality(std::string_view text);

// ---------------------------------------------------------------------------------------------

namespace detail {

[[nodiscard]] inline bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

[[nodiscard]] inline std::vector<std::string_view> split_words(std::string_view text) {
  std::vector<std::string_view> words;
  std::size_t at = 0;
  while (at < text.size()) {
    if (is_space(text[at])) {
      ++at;
      continue;
    }
    const std::size_t start = at;
    while (at < text.size() && !is_space(text[at])) ++at;
    words.push_back(text.substr(start, at - start));
  }
  return words;
}

/// The words joined by single spaces: equal texts up to white space give equal strings.
[[nodiscard]] inline std::string join_words(const std::vector<std::string_view>& words,
                                            std::size_t first, std::size_t count) {
  std::string joined;
  for (std::size_t i = first; i < first + count; ++i) {
    if (i != first) joined += ' ';
    joined += words[i];
  }
  return joined;
}

/// (n-grams - distinct n-grams) / n-grams; 0 if there are none.
template <class Item>
[[nodiscard]] double repeated_share(std::span<const Item> items, std::size_t n) {
  if (items.size() < n) return 0.0;
  const std::size_t total = items.size() - n + 1;
  const auto before = [first = items.data(), n](std::size_t a, std::size_t b) {
    return std::lexicographical_compare(first + a, first + a + n, first + b, first + b + n);
  };
  std::set<std::size_t, decltype(before)> distinct(before);
  for (std::size_t i = 0; i < total; ++i) distinct.insert(i);
  return static_cast<double>(total - distinct.size()) / static_cast<double>(total);
}

[[nodiscard]] inline double repeated_share(const std::vector<std::string_view>& words,
                                           std::size_t n) {
  return repeated_share(std::span<const std::string_view>(words), n);
}

/// The share of neighbouring sentences that are equal; 0 for fewer than two sentences.
[[nodiscard]] inline double repeated_sentence_share(std::string_view text) {
  std::vector<std::string> sentences;
  std::size_t start = 0;
  while (start < text.size()) {
    const std::size_t end = std::min(text.find_first_of(".!?", start), text.size());
    const auto words = split_words(text.substr(start, end - start));
    if (!words.empty()) sentences.push_back(join_words(words, 0, words.size()));
    start = end + 1;
  }
  if (sentences.size() < 2) return 0.0;
  std::size_t equal = 0;
  for (std::size_t i = 1; i < sentences.size(); ++i) equal += sentences[i] == sentences[i - 1];
  return static_cast<double>(equal) / static_cast<double>(sentences.size() - 1);
}

/// The share of characters outside ASCII, one per UTF-8 sequence.
[[nodiscard]] inline double non_ascii_share(std::string_view text) {
  std::size_t characters = 0;
  std::size_t outside = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xC0U) == 0x80U) continue;  // inside a sequence
    ++characters;
    outside += byte >= 0x80U;
  }
  return characters == 0 ? 0.0 : static_cast<double>(outside) / static_cast<double>(characters);
}

}  // namespace detail

template <class Item>
double n_gram_quality(std::span<const Item> items, int n) {
  if (n < 1) {
    throw_value_error("n_gram_quality: expected n of 1 or more, got {}; 4 is the authors'", n);
  }
  return 1.0 - detail::repeated_share(items, static_cast<std::size_t>(n));
}

double four_gram_quality(std::string_view text, int n) {
  if (n < 1) {
    throw_value_error("four_gram_quality: expected n of 1 or more, got {}; 4 is the authors'", n);
  }
  return 1.0 - detail::repeated_share(detail::split_words(text), static_cast<std::size_t>(n));
}

double composite_quality(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  const auto words = detail::split_words(lower);
  if (words.empty()) return 1.0;
  std::unordered_map<std::string_view, std::size_t> counts;
  std::size_t most = 0;
  std::size_t backslashes = 0;
  for (const std::string_view word : words) {
    most = std::max(most, ++counts[word]);
    backslashes += word.find('\\') != std::string_view::npos;
  }
  const double total = static_cast<double>(words.size());
  const double penalty =
      0.20 * detail::repeated_share(words, 3) + 0.20 * detail::repeated_share(words, 4) +
      0.15 * (1.0 - static_cast<double>(counts.size()) / total) +
      0.10 * detail::repeated_sentence_share(lower) +
      0.20 * static_cast<double>(backslashes) / total + 0.05 * detail::non_ascii_share(lower) +
      0.10 * static_cast<double>(most) / total;
  return 1.0 - penalty;
}

}  // namespace cna
