/// The manifest of an exported folder: what the archive beside it expects and returns.
///
///   folder/manifest.json  folder/model.pt or model.pt2  folder/tokenizer files
///
/// The archive's forward takes (input_ids, attention_mask, position_ids, logit_positions,
/// write_places, then a key and a value buffer per layer) and returns logits; docs/export.md has
/// the contract.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cna/grid.hpp"

namespace cna {

/// Key and value buffers of one layer are [rows, heads, tokens, key_dim or value_dim].
struct CacheShape {
  int64_t heads = 0;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
};

/// What was found to give a model's own numbers; the rest is not used.
struct Layouts {
  bool batch = true;         ///< several rows in a step
  bool padding = true;       ///< rows of unequal length, padded in front
  bool share_prefix = true;  ///< keys and values of one prompt serve others
  bool room = false;         ///< buffers may have places behind the new tokens'
};

struct Manifest {
  /// Version of the step: 1 has no write_places, and writes the last places of its buffers.
  int64_t step = 2;
  std::string archive = "model.pt";            ///< file name inside the folder
  std::string archive_format = "torchscript";  ///< or "aoti"
  std::string sha256;                          ///< of the archive, hexadecimal
  std::string model_id;                        ///< for provenance
  std::string weights_hash;                    ///< revision or hash of the weights, for provenance
  std::string dtype;                           ///< "float32", "bfloat16" or "float16"
  std::string tap_pattern;                     ///< empty: the default pattern
  std::string unembedding;  ///< path of the unembedding in the archive; empty: not known
  GridShape shape;
  int64_t hidden = 0;
  int64_t vocab = 0;
  int64_t max_positions = 0;      ///< longest prompt plus answer, 0 if unbounded
  std::vector<CacheShape> cache;  ///< one per layer
  std::vector<int64_t> eos_ids;   ///< tokens that end an answer
  Layouts layouts;                ///< all, in exports that do not say
  bool residual_sites = true;     ///< false: the stream's sites are not those of the model

  /// Inputs of the step before the keys and values.
  [[nodiscard]] size_t leading_inputs() const { return step > 1 ? 5 : 4; }

  // Only of compiled archives, whose graphs cannot be looked into.
  std::string torch;           ///< version of torch that compiled it
  std::string device;          ///< "cpu" or "cuda"
  std::string cpu_capability;  ///< instructions that it needs, as at::get_cpu_capability names them
  std::vector<std::string> neuron_sites;  ///< path of each layer's down projection, "" without one
  bool transposed = false;                ///< down projections are [width, hidden], as GPT-2's
  std::string gains;         ///< file of float32 gains [1 or 1 + layers, hidden]: the final norm's,
                             ///< then those behind each MLP; empty: not known
  std::string gains_sha256;  ///< of that file
  bool centred = false;      ///< the final norm takes the mean off
};

/// Reads and checks folder/manifest.json.
/// @throws Error if it cannot be read, ValueError if it is not a manifest of a known version.
Manifest read_manifest(const std::filesystem::path& folder);

}  // namespace cna
