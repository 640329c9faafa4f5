"""The peer itself: a Pipecat bot of its standard parts. It runs in the peer's own environment (``turn_peer``).

WebSocket server transport; in: mu-law at 8 kHz in messages of 20 ms, made 16 kHz PCM by Pipecat's resampler as its
telephone serialisers do; WhisperSTTService; Silero and Smart Turn v3 as in its defaults (VAD stop 0.2 s, Smart Turn
stop 3 s); an OpenAI-compatible language model at a URL; PiperTTSService in process; out: mu-law at 8 kHz. Each new
connection is a call: the context begins anew and the greeting is spoken.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from loguru import logger
from pipecat.audio.utils import create_stream_resampler, pcm_to_ulaw, ulaw_to_pcm
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import Frame, InputAudioRawFrame, OutputAudioRawFrame, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.serializers.base_serializer import FrameSerializer
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.piper.tts import PiperTTSService
from pipecat.services.whisper.stt import WhisperSTTService
from pipecat.transports.websocket.server import (
    SingleClientWebsocketServerParams,
    SingleClientWebsocketServerTransport,
)
from pipecat.workers.runner import WorkerRunner

LINE_RATE = 8000
RATE = 16000


class Telephone(FrameSerializer):
    """Mu-law at 8 kHz both ways, one message a frame, nothing around it."""

    def __init__(self) -> None:
        super().__init__()
        self._in = create_stream_resampler()
        self._out = create_stream_resampler()

    async def serialize(self, frame: Frame) -> bytes | None:
        """Audio as mu-law; nothing else goes out."""
        if not isinstance(frame, OutputAudioRawFrame):
            return None
        return await pcm_to_ulaw(frame.audio, frame.sample_rate, LINE_RATE, self._out)

    async def deserialize(self, data: str | bytes) -> Frame | None:
        """Mu-law as 16 kHz PCM."""
        audio = await ulaw_to_pcm(bytes(data, "latin-1") if isinstance(data, str) else data, LINE_RATE, RATE, self._in)
        return InputAudioRawFrame(audio=audio, num_channels=1, sample_rate=RATE) if audio else None


async def run(options: argparse.Namespace) -> None:
    """Serve until the process is ended."""
    transport = SingleClientWebsocketServerTransport(
        SingleClientWebsocketServerParams(
            audio_in_enabled=True, audio_out_enabled=True, audio_out_10ms_chunks=2, serializer=Telephone()
        ),
        host="127.0.0.1",
        port=options.port,
    )
    stt = WhisperSTTService(
        device="cpu", compute_type=options.compute_type, settings=WhisperSTTService.Settings(model=options.whisper)
    )
    llm = OpenAILLMService(
        api_key="none",
        base_url=options.llm,
        settings=OpenAILLMService.Settings(
            model="local", temperature=0.0, max_tokens=options.tokens, system_instruction=options.prompt
        ),
    )
    voice = Path(options.voice)
    tts = PiperTTSService(download_dir=voice.parent, settings=PiperTTSService.Settings(voice=voice.stem))
    context = LLMContext()
    pair = LLMContextAggregatorPair(context, user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer()))
    pipeline = Pipeline([transport.input(), stt, pair.user(), llm, tts, transport.output(), pair.assistant()])
    worker = PipelineWorker(
        pipeline,
        params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE),
        cancel_on_idle_timeout=False,
        idle_timeout_secs=None,
    )

    @transport.event_handler("on_client_connected")
    async def on_client_connected(_: object, __: object) -> None:
        context.set_messages([])
        await worker.queue_frames([TTSSpeakFrame(options.greeting)])

    @transport.event_handler("on_websocket_ready")
    async def on_websocket_ready(_: object) -> None:
        print("ready", flush=True)

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()


def main(arguments: list[str]) -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--whisper", required=True)
    parser.add_argument("--compute-type", default="default")
    parser.add_argument("--llm", required=True)
    parser.add_argument("--voice", required=True)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--greeting", required=True)
    parser.add_argument("--tokens", type=int, required=True)
    options = parser.parse_args(arguments)
    logger.remove()
    if path := os.environ.get("AIPHONE_PEER_LOG"):
        logger.add(path, level="DEBUG")
    asyncio.run(run(options))
