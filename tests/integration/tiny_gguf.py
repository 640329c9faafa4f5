"""A language model of a few hundred kilobytes with random weights, written by hand: for kinds nobody ships that small.

It speaks nonsense, deterministically, and what it says depends on every token it was shown.
Source: the GGUF specification; tensor names and shapes as in llama.cpp's ``llama-arch.cpp`` and ``llama-model.cpp``.
"""

import struct

import numpy as np

_U32, _F32, _STRING, _ARRAY, _I32 = 4, 6, 8, 9, 5
_ALIGN = 32


def _string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value):
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, int):
        return struct.pack("<II", _U32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    kind = _STRING if isinstance(value[0], str) else _I32
    items = b"".join(_string(item) if kind == _STRING else struct.pack("<i", item) for item in value)
    return struct.pack("<IIQ", _ARRAY, kind, len(value)) + items


def write_gguf(path, keys, tensors):
    """``tensors``: float32 arrays in numpy's order of axes, which is GGUF's reversed."""
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(keys))]
    head += [_string(key) + _value(value) for key, value in keys.items()]
    at, body = 0, []
    for name, array in tensors.items():
        shape = array.shape[::-1]
        head.append(_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, at))
        data = array.astype("<f4").tobytes()
        body.append(data + bytes(-len(data) % _ALIGN))
        at += len(body[-1])
    start = b"".join(head)
    path.write_bytes(start + bytes(-len(start) % _ALIGN) + b"".join(body))


def byte_vocabulary():
    """GPT-2's byte-level alphabet without merges: a token for each byte, and one that ends a text."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = {byte: chr(byte) for byte in printable}
    names |= {byte: chr(256 + at) for at, byte in enumerate(b for b in range(256) if b not in names)}
    tokens = [names[byte] for byte in range(256)] + ["<|endoftext|>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 256 + [3],
        "tokenizer.ggml.merges": ["\u0120 \u0120"],
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 256,
    }


def write_mamba(path, *, layers=2, width=32, seed=1):
    """A recurrent model (Mamba): its state can neither be cut nor shifted."""
    random = np.random.default_rng(seed)
    inner, state, rank, kernel, vocabulary = 2 * width, 8, 4, 4, 257

    def weights(*shape, scale=0.5):
        return random.normal(0, scale, shape)

    tensors = {
        "token_embd.weight": weights(vocabulary, width),
        "output_norm.weight": np.ones(width),
        "output.weight": weights(vocabulary, width),
    }
    for layer in range(layers):
        block = {
            "attn_norm.weight": np.ones(width),
            "ssm_in.weight": weights(2 * inner, width),
            "ssm_conv1d.weight": weights(inner, kernel),
            "ssm_conv1d.bias": weights(inner),
            "ssm_x.weight": weights(rank + 2 * state, inner),
            "ssm_dt.weight": weights(inner, rank),
            "ssm_dt.bias": weights(inner),
            "ssm_a": -np.abs(weights(inner, state)) - 0.05,
            "ssm_d": weights(inner),
            "ssm_out.weight": weights(width, inner),
        }
        tensors |= {f"blk.{layer}.{name}": array for name, array in block.items()}
    keys = {
        "general.architecture": "mamba",
        "general.name": "tiny mamba",
        "mamba.context_length": 4096,
        "mamba.embedding_length": width,
        "mamba.feed_forward_length": 0,
        "mamba.attention.head_count": 0,
        "mamba.block_count": layers,
        "mamba.attention.layer_norm_rms_epsilon": 1e-5,
        "mamba.ssm.conv_kernel": kernel,
        "mamba.ssm.inner_size": inner,
        "mamba.ssm.state_size": state,
        "mamba.ssm.time_step_rank": rank,
        **byte_vocabulary(),
    }
    write_gguf(path, keys, tensors)


def write_llama(path, *, layers=2, width=32, seed=1, spoil=False):
    """An ordinary transformer; ``spoil`` makes all that it computes not a number."""
    random = np.random.default_rng(seed)
    heads, hidden, vocabulary = 2, 64, 257

    def weights(*shape, scale=0.3):
        return random.normal(0, scale, shape)

    tensors = {
        "token_embd.weight": weights(vocabulary, width),
        "output_norm.weight": np.full(width, np.nan if spoil else 1.0),
        "output.weight": weights(vocabulary, width),
    }
    for layer in range(layers):
        block = {
            "attn_norm.weight": np.ones(width),
            "attn_q.weight": weights(width, width),
            "attn_k.weight": weights(width, width),
            "attn_v.weight": weights(width, width),
            "attn_output.weight": weights(width, width),
            "ffn_norm.weight": np.ones(width),
            "ffn_gate.weight": weights(hidden, width),
            "ffn_up.weight": weights(hidden, width),
            "ffn_down.weight": weights(width, hidden),
        }
        tensors |= {f"blk.{layer}.{name}": array for name, array in block.items()}
    keys = {
        "general.architecture": "llama",
        "general.name": "tiny llama",
        "llama.context_length": 4096,
        "llama.embedding_length": width,
        "llama.feed_forward_length": hidden,
        "llama.block_count": layers,
        "llama.attention.head_count": heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": width // heads,
        **byte_vocabulary(),
    }
    write_gguf(path, keys, tensors)
