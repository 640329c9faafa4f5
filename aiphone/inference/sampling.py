"""How the next token is chosen: llama.cpp's sampler chain, for one request.

Thread rule: the language model thread only.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from aiphone.errors import InferenceError
from aiphone.persona import Sampling


class LlamaSampler:
    """A sampler chain of llama.cpp, in its usual order, with the grammar kept apart.

    Running a grammar over the whole vocabulary for each token is slow, so the chain picks first and the grammar only
    checks the pick; the rare pick that it forbids is made again from the candidates the grammar leaves.
    """

    def __init__(self, vocab: Any, n_vocab: int, sampling: Sampling, grammar: str | None) -> None:
        self._n_vocab = n_vocab
        self._grammar: Any = None
        if grammar is not None:
            self._grammar = lib.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
            if not self._grammar:
                raise InferenceError("The grammar of this request does not parse as GBNF: correct its rules.")
        params = lib.llama_sampler_chain_default_params()
        self._chain: Any = lib.llama_sampler_chain_init(params)
        for sampler in self._stages(sampling):
            lib.llama_sampler_chain_add(self._chain, sampler)

    @staticmethod
    def _stages(sampling: Sampling) -> list[Any]:
        if sampling.temperature <= 0:
            return [lib.llama_sampler_init_greedy()]
        return [
            lib.llama_sampler_init_top_k(sampling.top_k),
            lib.llama_sampler_init_top_p(sampling.top_p, 1),
            lib.llama_sampler_init_min_p(sampling.min_p, 1),
            lib.llama_sampler_init_temp(sampling.temperature),
            lib.llama_sampler_init_dist(sampling.seed & 0xFFFFFFFF),
        ]

    def sample(self, ctx: Any, row: int, logits: npt.NDArray[np.float32]) -> int:
        """Pick from the logits of batch row ``row``."""
        token = int(lib.llama_sampler_sample(self._chain, ctx, row))  # picks and accepts
        if self._grammar is None:
            return token
        if not self._allows(token):
            token = self._pick_allowed(logits)
        lib.llama_sampler_accept(self._grammar, token)
        return token

    def _allows(self, token: int) -> bool:
        one = lib.llama_token_data(token, 1.0, 0.0)
        array = lib.llama_token_data_array(ctypes.pointer(one), 1, -1, False)
        lib.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return bool(np.isfinite(one.logit))

    def _pick_allowed(self, logits: npt.NDArray[np.float32]) -> int:
        rows = np.zeros(self._n_vocab, np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)]))
        rows["id"] = np.arange(self._n_vocab)
        rows["logit"] = logits
        data = ctypes.cast(ctypes.c_void_p(rows.ctypes.data), ctypes.POINTER(lib.llama_token_data))
        array = lib.llama_token_data_array(data, self._n_vocab, -1, False)
        lib.llama_sampler_apply(self._grammar, ctypes.byref(array))
        lib.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def close(self) -> None:
        """Free the samplers. A second call does nothing."""
        for sampler in (self._chain, self._grammar):
            if sampler:
                lib.llama_sampler_free(sampler)
        self._chain = self._grammar = None
