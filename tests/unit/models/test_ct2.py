"""The conversion of a CTranslate2 Whisper directory, on models of a few hundred numbers."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from aiphone.errors import ModelError, StorageError
from aiphone.models.ct2 import TEXT_TOKENS, convert_ct2_whisper, is_ct2_directory, mel_filters

STATE, MELS, VOCAB, LAYERS = 8, 80, 51864, 1
DTYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4, "bfloat16": 5}


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """A Whisper of one layer, in CTranslate2's names."""
    rng = np.random.default_rng(seed)

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}/gamma": random(STATE), f"{name}/beta": random(STATE)}

    def linear(name: str, rows: int, columns: int = STATE) -> dict[str, np.ndarray]:
        return {f"{name}/weight": random(rows, columns), f"{name}/bias": random(rows)}

    found: dict[str, np.ndarray] = {}
    for half, positions in (("encoder", 30), ("decoder", 16)):
        found[f"{half}/num_heads"] = np.array(2, np.int16)
        found[f"{half}/position_encodings/encodings"] = random(positions, STATE)
        found |= norm(f"{half}/layer_norm")
        for layer in range(LAYERS):
            base = f"{half}/layer_{layer}"
            found |= norm(f"{base}/self_attention/layer_norm") | linear(f"{base}/self_attention/linear_0", 3 * STATE)
            found |= linear(f"{base}/self_attention/linear_1", STATE)
            found |= norm(f"{base}/ffn/layer_norm") | linear(f"{base}/ffn/linear_0", 4 * STATE)
            found |= linear(f"{base}/ffn/linear_1", STATE, 4 * STATE)
            if half == "decoder":
                found |= norm(f"{base}/attention/layer_norm") | linear(f"{base}/attention/linear_0", STATE)
                found |= linear(f"{base}/attention/linear_1", 2 * STATE) | linear(f"{base}/attention/linear_2", STATE)
    found["encoder/conv1/weight"], found["encoder/conv1/bias"] = random(STATE, MELS, 3), random(STATE)
    found["encoder/conv2/weight"], found["encoder/conv2/bias"] = random(STATE, STATE, 3), random(STATE)
    found["decoder/embeddings/weight"] = random(VOCAB, STATE)
    return found


def stored(variables: dict[str, np.ndarray], quantization: str) -> dict[str, tuple[int, np.ndarray]]:
    """The variables as CTranslate2 stores them: a type and an array for each."""
    result: dict[str, tuple[int, np.ndarray]] = {}
    for name, value in variables.items():
        if value.ndim == 0:
            result[name] = DTYPES["int16"], value
        elif quantization == "int8" and name.endswith("weight"):
            rows = value.reshape(len(value), -1)
            scale = (127 / np.abs(rows).max(axis=1)).astype(np.float32)
            result[name] = DTYPES["int8"], np.rint(rows * scale[:, None]).astype(np.int8).reshape(value.shape)
            result[f"{name}_scale"] = DTYPES["float32"], scale
        elif quantization == "int16" and name.endswith("weight"):
            factor = np.float32(2**10 / np.abs(value).max())
            result[name] = DTYPES["int16"], np.rint(value * factor).astype(np.int16)
            result[f"{name}_scale"] = DTYPES["float32"], np.array(factor)
        elif quantization == "bfloat16":
            result[name] = DTYPES["bfloat16"], (value.view(np.uint32) >> 16).astype(np.uint16)
        elif quantization == "float16":
            result[name] = DTYPES["float16"], value.astype(np.float16)
        else:
            result[name] = DTYPES["float32"], value
    return result


def model_bin(
    variables: dict[str, tuple[int, np.ndarray]],
    aliases: dict[str, str] | None = None,
    spec: str = "WhisperSpec",
    version: int = 6,
) -> bytes:
    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    parts = [struct.pack("<I", version), string(spec), struct.pack("<2I", 3, len(variables))]
    for name, (kind, value) in sorted(variables.items()):
        parts += [string(name), struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)]
        parts += [struct.pack("<BI", kind, value.nbytes), value.tobytes()]
    parts.append(struct.pack("<I", len(aliases or {})))
    for alias, name in (aliases or {}).items():
        parts += [string(alias), string(name)]
    return b"".join(parts)


def tokens() -> list[str]:
    return ["!", "Ġthe", "Ċ", *(f"t{number}" for number in range(3, VOCAB))]


@pytest.fixture(scope="module")
def vocabulary() -> str:
    return json.dumps(tokens())


def directory(path: Path, vocabulary: str, quantization: str = "float16") -> Path:
    path.mkdir()
    (path / "model.bin").write_bytes(model_bin(stored(weights(), quantization)))
    (path / "vocabulary.json").write_text(vocabulary)
    return path


def read_ggml(path: Path) -> tuple[tuple[int, ...], list[bytes], dict[str, np.ndarray]]:
    data = io.BytesIO(path.read_bytes())

    def ints(count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}i", data.read(4 * count))

    header = ints(12)
    rows, columns = ints(2)
    data.read(4 * rows * columns)
    words = [data.read(ints(1)[0]) for _ in range(ints(1)[0])]
    tensors = {}
    while prefix := data.read(12):
        dims, length, kind = struct.unpack("<3i", prefix)
        shape = ints(dims)[::-1]
        name = data.read(length).decode()
        dtype = np.dtype("<f2" if kind else "<f4")
        raw = data.read(int(np.prod(shape)) * dtype.itemsize)
        tensors[name] = np.frombuffer(raw, dtype).reshape(shape)
    return header, words, tensors


def test_the_file_has_every_tensor_under_whisper_cpps_names(tmp_path: Path, vocabulary: str) -> None:
    target = tmp_path / "out" / "ggml.bin"
    convert_ct2_whisper(directory(tmp_path / "m", vocabulary, "float32"), target)
    header, words, tensors = read_ggml(target)
    assert header == (0x67676D6C, VOCAB, 30, STATE, 2, 1, 16, STATE, 2, 1, MELS, 1)
    assert len(words) == TEXT_TOKENS
    assert words[:3] == [b"!", b" the", b"\n"]
    assert len(tensors) == 11 + 15 * LAYERS + 24 * LAYERS
    source = weights()
    fused = source["encoder/layer_0/self_attention/linear_0/weight"]
    for index, part in enumerate(("query", "key", "value")):
        np.testing.assert_allclose(
            tensors[f"encoder.blocks.0.attn.{part}.weight"], fused[index * STATE : (index + 1) * STATE], atol=2e-3
        )
    both = source["decoder/layer_0/attention/linear_1/bias"]
    np.testing.assert_array_equal(tensors["decoder.blocks.0.cross_attn.value.bias"], both[STATE:])
    assert not any(name.endswith("key.bias") for name in tensors)
    assert tensors["encoder.conv1.bias"].shape == (STATE, 1)
    assert tensors["encoder.conv1.weight"].dtype == np.float16
    assert tensors["decoder.positional_embedding"].dtype == np.float32


@pytest.mark.parametrize(
    ("quantization", "tolerance"), [("float16", 2e-3), ("bfloat16", 3e-2), ("int8", 2e-2), ("int16", 4e-3)]
)
def test_every_way_of_storing_gives_the_same_numbers(
    tmp_path: Path, vocabulary: str, quantization: str, tolerance: float
) -> None:
    convert_ct2_whisper(directory(tmp_path / "m", vocabulary, quantization), tmp_path / "ggml.bin")
    _, _, tensors = read_ggml(tmp_path / "ggml.bin")
    source = weights()
    np.testing.assert_allclose(tensors["encoder.conv2.weight"], source["encoder/conv2/weight"], atol=tolerance)
    np.testing.assert_allclose(
        tensors["decoder.token_embedding.weight"], source["decoder/embeddings/weight"], atol=tolerance
    )


def test_the_bytes_are_the_same_each_time_and_progress_reaches_the_end(tmp_path: Path, vocabulary: str) -> None:
    source = directory(tmp_path / "m", vocabulary)
    seen: list[tuple[int, int]] = []
    convert_ct2_whisper(source, tmp_path / "a.bin", lambda done, total: seen.append((done, total)))
    convert_ct2_whisper(source, tmp_path / "b.bin")
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == (tmp_path / "a.bin").stat().st_size


def test_tied_weights_are_followed_to_where_they_are(tmp_path: Path, vocabulary: str) -> None:
    source = directory(tmp_path / "m", vocabulary)
    variables = weights()
    variables["decoder/layer_0/ffn/layer_norm/beta"] = variables["decoder/layer_norm/beta"]
    kept = stored(variables, "float32")
    del kept["decoder/layer_norm/beta"]
    aliases = {"decoder/layer_norm/beta": "decoder/layer_0/ffn/layer_norm/beta"}
    (source / "model.bin").write_bytes(model_bin(kept, aliases))
    convert_ct2_whisper(source, tmp_path / "ggml.bin")
    _, _, tensors = read_ggml(tmp_path / "ggml.bin")
    np.testing.assert_array_equal(tensors["decoder.ln.bias"], tensors["decoder.blocks.0.mlp_ln.bias"])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_model_is_refused_and_leaves_nothing_behind(tmp_path: Path, vocabulary: str, share: float) -> None:
    source = directory(tmp_path / "m", vocabulary)
    whole = (source / "model.bin").read_bytes()
    (source / "model.bin").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match=r"model\.bin"):
        convert_ct2_whisper(source, tmp_path / "ggml.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_a_directory_that_is_none_is_named(tmp_path: Path, vocabulary: str) -> None:
    with pytest.raises(ModelError, match="not a CTranslate2 model directory"):
        convert_ct2_whisper(tmp_path / "nothing", tmp_path / "ggml.bin")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "vocabulary.json").write_text(vocabulary)
    with pytest.raises(ModelError, match=r"has no model\.bin"):
        convert_ct2_whisper(tmp_path / "bare", tmp_path / "ggml.bin")
    assert not is_ct2_directory(tmp_path / "bare")


def test_other_models_and_versions_are_refused(tmp_path: Path, vocabulary: str) -> None:
    source = directory(tmp_path / "m", vocabulary)
    assert is_ct2_directory(source)
    (source / "model.bin").write_bytes(model_bin({}, spec="TransformerSpec"))
    with pytest.raises(ModelError, match="holds a TransformerSpec"):
        convert_ct2_whisper(source, tmp_path / "ggml.bin")
    (source / "model.bin").write_bytes(model_bin({}, version=99))
    with pytest.raises(ModelError, match="binary version"):
        convert_ct2_whisper(source, tmp_path / "ggml.bin")


def test_an_unknown_quantisation_says_how_to_convert(tmp_path: Path, vocabulary: str) -> None:
    source = directory(tmp_path / "m", vocabulary)
    variables = stored(weights(), "float16")
    variables["encoder/conv1/weight"] = (9, variables["encoder/conv1/weight"][1])
    (source / "model.bin").write_bytes(model_bin(variables))
    with pytest.raises(ModelError, match="--quantization float16"):
        convert_ct2_whisper(source, tmp_path / "ggml.bin")


def test_the_vocabulary_may_be_in_any_of_three_files(tmp_path: Path, vocabulary: str) -> None:
    source = directory(tmp_path / "m", vocabulary)
    convert_ct2_whisper(source, tmp_path / "json.bin")
    (source / "vocabulary.json").unlink()
    with pytest.raises(ModelError, match=r"vocabulary\.txt"):
        convert_ct2_whisper(source, tmp_path / "none.bin")
    (source / "vocabulary.txt").write_text("\n".join(tokens()) + "\n", encoding="utf-8")
    convert_ct2_whisper(source, tmp_path / "txt.bin")
    numbers = {token: number for number, token in enumerate(tokens())}
    (source / "tokenizer.json").write_text(json.dumps({"model": {"vocab": numbers}}))
    convert_ct2_whisper(source, tmp_path / "tokenizer.bin")
    first = (tmp_path / "json.bin").read_bytes()
    assert (tmp_path / "txt.bin").read_bytes() == first
    assert (tmp_path / "tokenizer.bin").read_bytes() == first
    (source / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        convert_ct2_whisper(source, tmp_path / "bad.bin")


def test_a_target_that_cannot_be_written_is_a_storage_error(tmp_path: Path, vocabulary: str) -> None:
    source = directory(tmp_path / "m", vocabulary)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written"):
        convert_ct2_whisper(source, tmp_path / "file" / "ggml.bin")


def test_the_mel_filters_are_slaneys() -> None:
    bank = mel_filters(80)
    assert bank.shape == (80, 201)
    assert bank.dtype == np.float32
    # Two numbers everybody who has opened a Whisper file has seen.
    assert bank[0, 1] == pytest.approx(0.024862, abs=1e-6)
    assert bank[1, 2] == pytest.approx(0.022871, abs=1e-6)
    # Each triangle has the area 1 over frequency; the bins are 40 Hz apart.
    np.testing.assert_allclose(bank[40:].sum(axis=1) * 40, 1.0, rtol=0.08)
    assert mel_filters(128).shape == (128, 201)
