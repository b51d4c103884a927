"""A VisualChat model as lmms-eval wants it: requests in, texts out.

Each request is a dialogue of one round: its images, then its text, in the template the model was
trained with, answered greedily. An `<image>` in the text stays text; images stand before it.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from PIL import Image
from tqdm import tqdm

from vchat.train import ChatSession, Sampling, load_chat_model

DEFAULT_NEW_TOKENS = 128


class VChat(lmms):  # type: ignore[misc]
    """`--model vchat --model_args checkpoint=FOLDER[,device=cuda:0]`."""

    def __init__(
        self, checkpoint: str, device: str | None = None, batch_size: int | str = 1
    ) -> None:
        """Load a run's newest checkpoint, a step folder, or an exported model."""
        super().__init__()
        if int(batch_size) != 1:
            raise ValueError(f"vchat answers one request at a time: batch_size is {batch_size}")
        self._chat_model, _ = load_chat_model(Path(checkpoint), device=device)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answer requests greedily; an answer ends before the first of its task's stop texts."""
        answers = []
        for request in tqdm(requests, desc="vchat", disable=self.rank != 0):
            text, options, doc_to_visual, doc_id, task, split = request.args
            visuals = doc_to_visual(self.task_dict[task][split][doc_id]) or []
            answers.append(self._answer(text, visuals, options))
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not offered: lmms-eval's tasks for chat models generate."""
        raise NotImplementedError("vchat offers generate_until only")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not offered."""
        raise NotImplementedError("vchat offers generate_until only")

    def _answer(self, text: str, visuals: list[Image.Image], options: dict[str, Any]) -> str:
        sampling = Sampling(max_new_tokens=int(options.get("max_new_tokens", DEFAULT_NEW_TOKENS)))
        session = ChatSession(self._chat_model, sampling=sampling)
        images = [self._chat_model.decode_picture(_as_png(one)) for one in visuals]
        answer = "".join(session.ask(text, images=images))
        until = options.get("until") or []
        for stop in [until] if isinstance(until, str) else until:
            answer = answer.partition(stop)[0] if stop else answer
        return answer.strip()


def _as_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
