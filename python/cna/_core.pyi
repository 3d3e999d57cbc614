"""
The C++ part of cna: circuits, interventions and models with taps.
"""
from __future__ import annotations
import collections.abc
import os
import torch
import typing
__all__: list[str] = ['Circuit', 'ContributionParts', 'Conversation', 'Gate', 'Intervention', 'Model', 'Neuron', 'NonFiniteError', 'Overlap', 'Taps', 'UniversalCounter', 'Watch', 'common_prefix', 'compare', 'composite_quality', 'coverage', 'down_projection', 'four_gram_quality', 'hypergeometric_upper_tail', 'inspect_archive', 'mcnemar_exact', 'merge_moments', 'n_gram_quality', 'prompt_hash', 'random_like', 'set_capture', 'shared_experts', 'torch_version', 'universal_threshold', 'unpad', 'version', 'wilson_interval']
class NonFiniteError(RuntimeError):
    """
    A model's numbers overflowed, so that nothing can be read off them.
    """
class Neuron:
    """
    One MLP neuron: a place in the model and its signed contrast.
    """
    def __eq__(self, arg0: Neuron) -> bool:
        ...
    def __hash__(self) -> int:
        ...
    def __init__(self, layer: typing.SupportsInt | typing.SupportsIndex, index: typing.SupportsInt | typing.SupportsIndex, delta: typing.SupportsFloat | typing.SupportsIndex = 0.0) -> None:
        ...
    def __iter__(self) -> collections.abc.Iterator:
        ...
    def __repr__(self) -> str:
        ...
    @property
    def delta(self) -> float:
        """
        Mean over positive minus mean over negative prompts.
        """
    @property
    def index(self) -> int:
        """
        Entry of the vector that enters the down projection.
        """
    @property
    def layer(self) -> int:
        """
        Layer, counted from 0.
        """
class Overlap:
    """
    How two circuits of one model overlap.
    """
    def __repr__(self) -> str:
        ...
    def _repr_html_(self) -> str:
        ...
    @property
    def jaccard(self) -> float:
        """
        Shared over either, 0 to 1.
        """
    @property
    def left(self) -> int:
        """
        Neurons in the left circuit.
        """
    @property
    def log10_p_value(self) -> float:
        """
        The same where it underflows.
        """
    @property
    def p_value(self) -> float:
        """
        Hypergeometric P[at least this many shared] for random circuits of these sizes.
        """
    @property
    def right(self) -> int:
        """
        Neurons in the right circuit.
        """
    @property
    def shared(self) -> int:
        """
        Neurons in both.
        """
class Circuit:
    """
    The neurons of one model behind a behaviour, strongest first.
    
    Source: arXiv 2605.12290, section 3.
    """
    __hash__: typing.ClassVar[None] = None
    @staticmethod
    def from_json(text: str) -> Circuit:
        """
        Reads what to_json wrote; deltas come back bit for bit.
        """
    @staticmethod
    def load(path: os.PathLike | str | bytes) -> Circuit:
        """
        Reads a saved circuit. RuntimeError if unreadable, ValueError or IndexError if it is not a circuit.
        """
    def __and__(self, arg0: Circuit) -> Circuit:
        ...
    def __contains__(self, arg0: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]) -> bool:
        ...
    def __eq__(self, arg0: Circuit) -> bool:
        ...
    @typing.overload
    def __getitem__(self, rank: typing.SupportsInt | typing.SupportsIndex) -> Neuron:
        ...
    @typing.overload
    def __getitem__(self, ranks: slice) -> Circuit:
        """
        The neurons of these ranks, as a circuit.
        """
    def __getstate__(self) -> str:
        ...
    def __init__(self, shape: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], neurons: collections.abc.Sequence[Neuron], provenance: dict = {}, universal_removed: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]] = [], widths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] | None = None, experts: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]] = []) -> None:
        ...
    def __iter__(self) -> collections.abc.Iterator:
        ...
    def __len__(self) -> int:
        ...
    def __or__(self, arg0: Circuit) -> Circuit:
        ...
    def __repr__(self) -> str:
        ...
    def __setstate__(self, arg0: str) -> None:
        ...
    def __sub__(self, arg0: Circuit) -> Circuit:
        ...
    def _repr_html_(self) -> typing.Any:
        ...
    def expert_of(self, layer: typing.SupportsInt | typing.SupportsIndex, index: typing.SupportsInt | typing.SupportsIndex) -> tuple[int | None, int]:
        """
        (expert, index in it) of a neuron; expert is None for one that every token sees.
        """
    def in_layers(self, layers: typing.Any) -> Circuit:
        """
        The neurons of a layer, or of several; negative numbers count from the last layer.
        """
    def save(self, path: os.PathLike | str | bytes) -> None:
        """
        Writes JSON: the whole file, or the old one stays. RuntimeError if it cannot.
        """
    def share_in_last_layers(self, n: typing.SupportsInt | typing.SupportsIndex) -> float:
        """
        Share of the neurons in the last n layers, 0 to 1.
        """
    def to_json(self) -> str:
        """
        The circuit as JSON text.
        """
    def where(self, keep: collections.abc.Callable) -> Circuit:
        """
        The neurons for which keep(neuron) is true.
        """
    def with_provenance(self, **kwargs) -> Circuit:
        """
        A copy with these provenance entries added.
        """
    @property
    def experts(self) -> list[tuple[int, int]]:
        """
        (count, width) of each layer's experts, [n_layers]; empty where no layer has any.
        """
    @property
    def layer_counts(self) -> list[int]:
        """
        Neurons per layer, [n_layers].
        """
    @property
    def negative(self) -> Circuit:
        """
        The neurons with a negative delta.
        """
    @property
    def neurons(self) -> list[Neuron]:
        """
        List of Neuron, by |delta| descending, then layer, then index.
        """
    @property
    def positive(self) -> Circuit:
        """
        The neurons with a positive delta.
        """
    @property
    def provenance(self) -> dict:
        """
        What the circuit was found with: model, prompts, options (a copy).
        """
    @property
    def shape(self) -> tuple[int, int]:
        """
        (n_layers, width) of the model; width is that of the widest layer.
        """
    @property
    def universal_removed(self) -> list[tuple[int, int]]:
        """
        (layer, index) of the universal neurons kept out of the circuit.
        """
    @property
    def widths(self) -> list[int]:
        """
        Neurons of each layer of the model, [n_layers]; 0 for a block without an MLP.
        """
    # from cna.ship.circuit_methods, which has their arguments
    def card(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
    def cards(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
    @staticmethod
    def from_hub(*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
    def probe(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
    def push_to_hub(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
    def to_frame(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
    def to_hooks(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
    def verify(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
    def view(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
    def widget(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
    def with_fingerprint(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
class Intervention:
    """
    Affine edits a <- scale * a + shift, for one or several arms.
    """
    @staticmethod
    def ablate(circuit: Circuit) -> Intervention:
        """
        a <- 0.
        """
    @staticmethod
    def add(site: str, layer: typing.SupportsInt | typing.SupportsIndex, vector: torch.Tensor, coefficients: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex]) -> Intervention:
        """
        x <- x + c * vector at a site of one layer, one arm per coefficient.
        """
    @staticmethod
    def bias_logits(bias: torch.Tensor, coefficients: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex]) -> Intervention:
        """
        logits <- logits + c * bias at every place, bias [vocab], one arm per coefficient.
        """
    @staticmethod
    def concat(parts: collections.abc.Sequence[Intervention]) -> Intervention:
        """
        All arms, one after the other.
        """
    @staticmethod
    def mean_ablate(circuit: Circuit, means: torch.Tensor) -> Intervention:
        """
        a <- the neuron's mean, means [n_layers, width].
        """
    @staticmethod
    def scale(circuit: Circuit, multipliers: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex]) -> Intervention:
        """
        a <- m * a at the circuit's neurons, one arm per multiplier.
        """
    @staticmethod
    def set(circuit: Circuit, values: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex]) -> Intervention:
        """
        a <- value, one per neuron in circuit order.
        """
    @staticmethod
    def shift(circuit: Circuit, coefficients: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex]) -> Intervention:
        """
        a <- a - c * delta, one arm per coefficient.
        """
    @staticmethod
    def towards(circuit: Circuit, target: torch.Tensor, shares: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex]) -> Intervention:
        """
        a <- a + c * (target - a), target [n_layers, width], one arm per share.
        """
    def __init__(self, arms: typing.SupportsInt | typing.SupportsIndex = 1) -> None:
        ...
    def from_last(self, tokens: typing.SupportsInt | typing.SupportsIndex) -> Intervention:
        """
        The same from the last `tokens` tokens of each prompt on, answers included.
        """
    def select(self, arms: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> Intervention:
        """
        The chosen arms, in that order.
        """
    def then(self, next: Intervention) -> Intervention:
        """
        First this, then next.
        """
    @property
    def arms(self) -> int:
        ...
    @property
    def digest(self) -> str:
        """
        16 hexadecimal digits by which an arm is known again.
        """
    @property
    def is_identity(self) -> bool:
        ...
class Taps:
    """
    The taps of one model, called by a live model's hooks.
    """
    def apply(self, x: torch.Tensor, slot: typing.SupportsInt | typing.SupportsIndex, first: typing.SupportsInt | typing.SupportsIndex = 0, gather: collections.abc.Callable | None = None, features: typing.SupportsInt | typing.SupportsIndex = 0, idle: torch.Tensor | None = None) -> torch.Tensor:
        """
        Records and edits x [rows, tokens, features]; returns it, or a changed copy. A part of a layer holds the features from `first` on: of several processes, `gather` makes a recording whole; of several modules, the layer has `features`, and where `idle` is true (bool, broadcast to x) it stays 0.
        """
    def slot(self, site: str, layer: typing.SupportsInt | typing.SupportsIndex) -> int:
        ...
    def watches(self, slot: typing.SupportsInt | typing.SupportsIndex) -> bool:
        """
        Whether the pass under way records or edits at this tap.
        """
class Model:
    """
    A language model with taps.
    """
    @staticmethod
    def live(info: dict, forward: collections.abc.Callable, move: collections.abc.Callable, weights: tuple[collections.abc.Callable, collections.abc.Callable] | None = None) -> Model:
        """
        A model that Python runs: forward(ids, mask, positions, keep, places, cache, taps) -> logits [rows, k, vocab]. ids, positions int64 [rows, new]; mask int64 [rows, places]; keep int64 [k], of the new tokens; places int64 [new], of the new keys and values in the cache's buffers [rows, heads, places, dim], keys and values of each layer in turn.
        """
    @staticmethod
    def load(path: os.PathLike | str | bytes, pattern: str = '', device: str = 'cpu', verify: bool = True, fuse: bool = True, bf16: bool = False, capture: bool = False, products: str = '') -> Model:
        """
        Opens an exported folder, or any traced TorchScript language model.
        """
    def answer_jobs(self, arms: collections.abc.Sequence[Intervention], prompts: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], jobs: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]], max_new_tokens: typing.SupportsInt | typing.SupportsIndex, sink: typing.Any, **kwargs) -> None:
        """
        Greedy answers of (arm, prompt) jobs; calls sink(jobs, answers) batch by batch.
        """
    def contrast(self, positive: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], negative: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], site: str = 'neuron', **kwargs) -> tuple[dict, dict]:
        """
        Moments of both sets: dicts of count, mean and m2, float64 [n_layers, features].
        """
    def contribution_parts(self, positive: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], negative: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], **kwargs) -> ContributionParts:
        ...
    def count_universal(self, prompts: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], top_fraction: typing.SupportsFloat | typing.SupportsIndex = 0.001, **kwargs) -> UniversalCounter:
        ...
    def difference_written(self, circuit: Circuit) -> dict[int, torch.Tensor]:
        """
        Layer -> sum of delta * write over the circuit, float64 [hidden].
        """
    def discover(self, positive: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], negative: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], **kwargs) -> Circuit:
        """
        Keywords: fraction, k, universal, ranking, penalty, side, layers, direction, direction_layer
        """
    def divergence(self, prompts: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], continuations: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        """
        (KL from arm 0, log likelihood), each float64 [arms, n].
        """
    def dry_run(self, rows: typing.SupportsInt | typing.SupportsIndex, fresh: typing.SupportsInt | typing.SupportsIndex, past: typing.SupportsInt | typing.SupportsIndex) -> list[int]:
        """
        Shape of the logits of one step of zeros; on 'meta' it finds leftover device constants.
        """
    def generate(self, prompts: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], max_new_tokens: typing.SupportsInt | typing.SupportsIndex = 64, temperature: typing.SupportsFloat | typing.SupportsIndex = 0.0, top_k: typing.SupportsInt | typing.SupportsIndex = 0, top_p: typing.SupportsFloat | typing.SupportsIndex = 1.0, seed: typing.SupportsInt | typing.SupportsIndex = 0, eos_ids: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = [], ignore_eos: bool = False, on_token: collections.abc.Callable | None = None, watch: Watch = None, **kwargs) -> list[list[int]]:
        """
        Answers as token ids, without prompt and end token. on_token(prompt, token) is called with each as it is written; a Watch reads its gate's score at each.
        """
    def log_likelihood(self, prompts: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], continuations: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], **kwargs) -> torch.Tensor:
        """
        Sum of log probabilities of each continuation, nats, float64 [n].
        """
    def logits(self, prompts: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], **kwargs) -> torch.Tensor:
        """
        Logits behind each prompt, float32 [n_prompts, vocab].
        """
    def logits_written(self, circuit: Circuit) -> torch.Tensor:
        """
        What a unit of each neuron adds to the logits, float32 [neurons, vocab].
        """
    def prompt_divergence(self, prompts: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], other_prompts: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], continuations: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], **kwargs) -> torch.Tensor:
        """
        KL of other prompts under the last arm from these under arm 0, float64 [n].
        """
    def record(self, prompts: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], site: str, **kwargs) -> torch.Tensor:
        """
        Last-token activations, float32 [n_prompts, n_layers, features].
        """
    def record_stream(self, prompts: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], site: str, sink: typing.Any, **kwargs) -> None:
        """
        Calls sink(rows, activations [rows, n_layers, features]) batch by batch.
        """
    def record_tokens(self, prompts: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], circuit: Circuit, sink: typing.Any, **kwargs) -> None:
        """
        Calls sink(prompt, activations [tokens, neurons]) for each prompt, in the circuit's order.
        """
    def scores(self, positive: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], negative: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], **kwargs) -> tuple[tuple[dict, dict], torch.Tensor]:
        """
        ((moments of either set), score float64 [n_layers, width]) of any ranking.
        """
    def select(self, positive: dict, negative: dict, score: torch.Tensor | None = None, **kwargs) -> Circuit:
        """
        The circuit of two sets' moments, by a score of your own where given.
        """
    def steering_vectors(self, positive: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], negative: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], site: str = 'residual', **kwargs) -> torch.Tensor:
        """
        Mean over positive minus mean over negative prompts, float64 [n_layers, features].
        """
    def to(self, device: str) -> None:
        ...
    def weight(self, module: str) -> torch.Tensor | None:
        """
        Weight of a module of an exported graph, by its path; None where there is none.
        """
    @property
    def captures(self) -> bool:
        """
        Whether steps of one token are captured and replayed.
        """
    @property
    def device(self) -> str:
        ...
    @property
    def dtype(self) -> str:
        ...
    @property
    def eos_ids(self) -> list[int]:
        ...
    @property
    def experts(self) -> list[tuple[int, int]]:
        """
        (count, width) of each layer's experts, [n_layers]; empty where no layer has any.
        """
    @property
    def has_cache(self) -> bool:
        ...
    @property
    def has_residual_sites(self) -> bool:
        ...
    @property
    def has_room(self) -> bool:
        """
        Whether keys and values may have places behind the new tokens'.
        """
    @property
    def hidden(self) -> int:
        ...
    @property
    def id(self) -> str:
        ...
    @property
    def layouts(self) -> dict[str, bool]:
        """
        Which layouts give the model's own numbers: batch, padding, share_prefix.
        """
    @property
    def max_positions(self) -> int:
        ...
    @property
    def n_neurons(self) -> int:
        """
        Of all layers
        """
    @property
    def neuron_sites(self) -> list[str]:
        ...
    @property
    def products(self) -> str:
        """
        The form in which it multiplies: packed, weights_first or plain.
        """
    @property
    def shape(self) -> tuple[int, int]:
        """
        (n_layers, width); width is that of the widest layer
        """
    @property
    def vocab(self) -> int:
        ...
    @property
    def weights_hash(self) -> str:
        ...
    @property
    def widens(self) -> bool:
        """
        Whether arms share the layers below their first edit; finding out may run a step.
        """
    @property
    def widths(self) -> list[int]:
        """
        Neurons of each layer, [n_layers]; 0 for a block without an MLP
        """
class UniversalCounter:
    """
    Counts how often each neuron is among a prompt's strongest.
    """
    def __init__(self, widths: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], top_fraction: typing.SupportsFloat | typing.SupportsIndex = 0.001) -> None:
        ...
    def add(self, activations: torch.Tensor) -> None:
        """
        Takes one prompt, [n_layers, width].
        """
    def merge(self, other: UniversalCounter) -> None:
        ...
    def universal(self, share: typing.SupportsFloat | typing.SupportsIndex = 0.8) -> list[tuple[int, int]]:
        """
        (layer, index) of neurons hit in at least `share` of the prompts.
        """
    @property
    def counts(self) -> torch.Tensor:
        """
        int32 [n_layers, width]
        """
    @property
    def prompts(self) -> int:
        ...
class ContributionParts:
    """
    What a ranking by contribution is made of, for any penalty.
    """
    def score(self, penalty: typing.SupportsFloat | typing.SupportsIndex = 0.1) -> torch.Tensor:
        """
        float64 [n_layers, width]
        """
    @property
    def contrast(self) -> tuple[dict, dict]:
        """
        Moments of both sets.
        """
    @property
    def difference_along(self) -> torch.Tensor:
        """
        delta * (write . u), float64 [n_layers, width]: the ranking by direction along u.
        """
    @property
    def direction(self) -> torch.Tensor:
        """
        float64 [hidden]
        """
class Gate:
    """
    Says of a prompt whether a circuit fires on it.
    """
    @staticmethod
    def fit(model: Model, circuit: Circuit, positive: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], negative: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], false_positives: typing.SupportsFloat | typing.SupportsIndex = 0.05, **kwargs) -> Gate:
        ...
    def __init__(self, circuit: Circuit, mean: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex], sd: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex], threshold: typing.SupportsFloat | typing.SupportsIndex, true_positives: typing.SupportsFloat | typing.SupportsIndex, false_positives: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    def arms(self, model: Model, prompts: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], **kwargs) -> list[int]:
        """
        1 for prompts that pass, else 0.
        """
    def score_of(self, activations: torch.Tensor) -> torch.Tensor:
        """
        Scores of activations [..., neurons] in the circuit's order, float64 [...].
        """
    def scores(self, model: Model, prompts: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], **kwargs) -> list[float]:
        """
        One score a prompt.
        """
    def token_scores(self, model: Model, prompts: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], **kwargs) -> list[list[float]]:
        """
        One score a token of each prompt.
        """
    @property
    def circuit(self) -> Circuit:
        ...
    @property
    def false_positives(self) -> float:
        ...
    @property
    def mean(self) -> list[float]:
        """
        One per neuron, in the circuit's order.
        """
    @property
    def sd(self) -> list[float]:
        """
        Likewise.
        """
    @property
    def threshold(self) -> float:
        ...
    @property
    def true_positives(self) -> float:
        ...
class Watch:
    """
    Reads a gate's score while answers are written.
    """
    def __init__(self, gate: Gate, listener: collections.abc.Callable | None = None) -> None:
        """
        listener(prompt, token, score) is called before that token is known.
        """
    @property
    def fired(self) -> list[bool]:
        """
        Of each prompt, whether a score passed the gate's threshold.
        """
    @property
    def gate(self) -> Gate:
        ...
    @property
    def scores(self) -> list[list[float]]:
        """
        Of each prompt of the last run, one for each token of its answer.
        """
class Conversation:
    """
    A prompt that grows turn by turn, on the keys and values of its turns.
    """
    def __init__(self, model: Model) -> None:
        ...
    def answer(self, prompt: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], max_new_tokens: typing.SupportsInt | typing.SupportsIndex = 64, temperature: typing.SupportsFloat | typing.SupportsIndex = 0.0, top_k: typing.SupportsInt | typing.SupportsIndex = 0, top_p: typing.SupportsFloat | typing.SupportsIndex = 1.0, seed: typing.SupportsInt | typing.SupportsIndex = 0, on_token: collections.abc.Callable | None = None, **kwargs) -> list[int]:
        """
        Answer to a whole prompt as token ids; what it shares with the turns so far is kept. on_token(0, token) is called with each as it is written.
        """
    def clear(self) -> None:
        """
        Forgets all turns.
        """
    @property
    def reused(self) -> int:
        """
        Tokens of the last prompt that were not computed again.
        """
    @property
    def tokens(self) -> list[int]:
        """
        Tokens whose keys and values are held.
        """
def common_prefix(prompts: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]]) -> int:
    """
    Tokens shared by all prompts, leaving each one of its own.
    """
def compare(a: Circuit, b: Circuit) -> Overlap:
    """
    Overlap of two circuits of one model: count, Jaccard, hypergeometric p.
    """
def composite_quality(text: str) -> float:
    """
    The composite score of the paper's authors' logs, 0 to 1.
    """
def coverage(score: torch.Tensor, circuit: Circuit) -> float:
    """
    Share of the scores' sum that the circuit's neurons hold.
    """
def four_gram_quality(text: str, n: typing.SupportsInt | typing.SupportsIndex = 4) -> float:
    """
    1 - share of repeated word n-grams, 0 to 1; shorter texts score 1.
    """
def hypergeometric_upper_tail(population: typing.SupportsInt | typing.SupportsIndex, marked: typing.SupportsInt | typing.SupportsIndex, drawn: typing.SupportsInt | typing.SupportsIndex, shared: typing.SupportsInt | typing.SupportsIndex) -> float:
    """
    P[X >= shared], exact.
    """
def inspect_archive(path: os.PathLike | str | bytes, pattern: str = '') -> dict:
    """
    What grafting finds in a TorchScript file.
    """
def mcnemar_exact(gained: typing.SupportsInt | typing.SupportsIndex, lost: typing.SupportsInt | typing.SupportsIndex) -> float:
    """
    Two-sided exact McNemar p for paired yes/no answers.
    """
def merge_moments(a: dict, b: dict) -> dict:
    """
    Moments of both streams together, exact (Chan et al. 1983).
    """
def n_gram_quality(items: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], n: typing.SupportsInt | typing.SupportsIndex = 4) -> float:
    """
    1 - share of repeated n-grams of token ids, 0 to 1; shorter lists score 1.
    """
def prompt_hash(sets: collections.abc.Sequence[collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]]]) -> str:
    """
    Hash of sets of prompts as token ids, 16 hexadecimal digits.
    """
def random_like(circuit: Circuit, seed: typing.SupportsInt | typing.SupportsIndex = 0, avoid: bool = True) -> Circuit:
    """
    Random neurons, as many in each layer as the circuit has.
    """
def set_capture(device_type: str, capture: collections.abc.Callable | None) -> None:
    """
    How work is captured on devices of this type: capture(device, work) calls work() once and returns what replays it, a function without arguments; what it raises ends the run. One capture is under way at a time. None: as torch does it, if it does.
    """
def universal_threshold(prompts: typing.SupportsInt | typing.SupportsIndex, share: typing.SupportsFloat | typing.SupportsIndex = 0.8) -> int:
    """
    In how many of these prompts a neuron must be a hit.
    """
def unpad(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list[list[int]]:
    """
    Rows without padding, whichever side it is on.
    """
def wilson_interval(successes: typing.SupportsInt | typing.SupportsIndex, n: typing.SupportsInt | typing.SupportsIndex, confidence: typing.SupportsFloat | typing.SupportsIndex = 0.95) -> tuple[float, float]:
    """
    Wilson score interval (low, high) of a rate.
    """
down_projection: str = '(^|\\.)(mlp|mlp_block|feed_forward|ffn|mixer)\\.(down_proj|c_proj|dense_4h_to_h|fc_out|fc2|w2|Wo)$|(layers\\.\\d+\\.fc2|layer\\.\\d+\\.output\\.dense)$'
shared_experts: str = '(^|\\.)(shared_experts?|shared_mlp)\\.(down_proj|output_linear|w2)$'
torch_version: str = '2.13.0'
version: str = '0.1.0'
