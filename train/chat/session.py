"""One dialogue with a model: rounds of images, question and answer, and the cache between them.

In: questions and pixels. Out: answers, piece by piece. A new round costs only its own tokens: the
cache holds all earlier ones. The template and tokenizer of the shards build the prompt; generated
tokens stay in the cache as generated.

The list of ids fed so far is authoritative, and the cache can be computed from it: if a forward
pass is interrupted, the cache is dropped, and the next pass feeds everything again. So does every
round of a model whose cache is not valid between rounds, as those of the published code.
"""

from __future__ import annotations

import enum
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vchat.model.cached_layout import DialogueCache
from vchat.shards.text.tokenizer import TextTokenizer
from vchat.train.chat.chat_model import ChatModel, tower_inputs
from vchat.train.chat.generation import Sampling, next_ids


class EndReason(enum.Enum):
    """Why an answer ended."""

    BY_MODEL = "complete"
    TOO_LONG = "cut at the most new tokens allowed"
    OUT_OF_POSITIONS = "cut: the dialogue fills the model's positions"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRound:
    """One finished round."""

    num_images: int
    """Images first shown with this question."""

    question: str
    answer: str
    """As generated, without the token that ended it."""

    num_tokens: int
    """Tokens of the answer, without the end token."""

    end_reason: EndReason


class ChatSession:
    """A dialogue that grows round by round. Not thread-safe."""

    def __init__(self, chat_model: ChatModel, *, sampling: Sampling, seed: int | None = None):
        """`seed` is used only if `sampling.temperature` is above 0, see `set_seed`."""
        self.chat_model = chat_model
        self.sampling = sampling
        self.rounds: list[ChatRound] = []
        self.ids: list[int] = []
        """All ids fed to the model, slots repeated: the cache has one position for each."""
        self.pending_ids: list[int] = []
        """Ids that are fed before the next prompt: the end of the last round, and added rounds."""
        self._pending_pixels: list[Tensor] = []
        self._pixels: list[Tensor] = []
        self._cache: DialogueCache | None = None
        self._generator = torch.Generator(chat_model.model.device)
        self.set_seed(seed)

    @property
    def num_images(self) -> int:
        """The number of images shown so far."""
        return len(self._pixels) + len(self._pending_pixels)

    def clear(self) -> None:
        """Forget all rounds, images and the cache."""
        self.rounds.clear()
        self.ids.clear()
        self.pending_ids.clear()
        self._pixels.clear()
        self._pending_pixels.clear()
        self._cache = None

    def set_seed(self, seed: int | None) -> None:
        """Restart the random numbers of sampling; None is from a number that nobody knows."""
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def add_round(
        self,
        question: str,
        answer: str,
        *,
        images: Sequence[Tensor] = (),
        places: tuple[int, ...] = (),
    ) -> None:
        """Add a round whose answer is known; it is fed with the next question."""
        question = question if places else question.strip()
        prompt = self._prompt(question, None, images=images, places=places)
        whole = self._prompt(question, answer, images=images, places=places)
        self.pending_ids += whole
        self._pending_pixels += images
        self.rounds.append(
            ChatRound(
                num_images=len(images),
                question=question,
                answer=answer,
                num_tokens=len(whole) - len(prompt) - 1,
                end_reason=EndReason.BY_MODEL,
            )
        )

    def ask(
        self, question: str, *, images: Sequence[Tensor] = (), places: tuple[int, ...] = ()
    ) -> Generator[str]:
        """Add a round; return the pieces of its answer as the model generates them.

        Closing the generator stops the answer; the pieces so far are then the round's answer. If
        an exception interrupts feeding the question, the dialogue stays as it was.

        Args:
            question: Running text; it is stripped, as the shards' texts are, unless it has places.
            images: From `ChatModel.decode_picture`.
            places: Where they stand, as in `TextRound`; empty if they stand before the question.

        Raises:
            ValueError: The model has too few positions left. Raised by the call itself, before
                anything changes.
        """
        question = question if places else question.strip()
        prompt = self.pending_ids + self._prompt(question, None, images=images, places=places)
        most = self.chat_model.max_positions
        if len(self.ids) + len(prompt) + 1 > most:
            raise ValueError(
                f"this round takes {len(prompt)} positions and its answer 1 or more, but"
                f" {most - len(self.ids)} of the model's {most} are left:"
                " show fewer images, or clear the dialogue"
            )
        return self._answer(question, prompt=prompt, images=list(images))

    def _prompt(
        self,
        question: str,
        answer: str | None,
        *,
        images: Sequence[Tensor],
        places: tuple[int, ...] = (),
    ) -> list[int]:
        """Return the ids from the end of the last round up to the answer, or past a given one."""
        template = self.chat_model.template
        parts = template.between() if self.rounds else template.opening()
        parts += template.round(
            question,
            answer,
            num_images=len(images),
            first_image=self.num_images + 1,
            places=places,
        )
        return self.chat_model.prompt_ids(
            parts, inputs=[len(tower_inputs(image)) for image in images]
        )

    def _answer(self, question: str, *, prompt: list[int], images: list[Tensor]) -> Generator[str]:
        if not self.chat_model.model.config.keeps_rounds:
            self._cache = None
        logits = self._extend(prompt, self._pending_pixels + images)
        self.pending_ids, self._pending_pixels = [], []
        first = len(self.ids)
        stream = TextStream(self.chat_model.tokenizer)
        ended, end_ids = EndReason.STOPPED, self.chat_model.end_ids
        try:
            while ended is EndReason.STOPPED:
                chosen = self._choose(logits)
                if chosen in end_ids:
                    ended = EndReason.BY_MODEL
                    break
                yield stream.add(chosen)
                if len(stream.ids) == self.sampling.max_new_tokens:
                    ended = EndReason.TOO_LONG
                elif len(self.ids) == self.chat_model.max_positions:
                    ended = EndReason.OUT_OF_POSITIONS
                else:
                    logits = self._extend([chosen], [])
            yield stream.flush()
        finally:
            fed = len(self.ids) - first
            self.pending_ids = [*stream.ids[fed:], self.chat_model.end_id]
            self.rounds.append(
                ChatRound(
                    num_images=len(images),
                    question=question,
                    answer=stream.text,
                    num_tokens=len(stream.ids),
                    end_reason=ended,
                )
            )

    def _choose(self, logits: Tensor) -> int:
        tokenizer = self.chat_model.tokenizer
        chosen = next_ids(
            logits,
            self.sampling,
            slot_id=tokenizer.image_id,
            num_ids=tokenizer.num_ids,
            generator=self._generator,
        )
        return int(chosen)

    def _extend(self, ids: list[int], images: list[Tensor]) -> Tensor:
        """Feed ids and the images of their slots; return the logits that follow, float[1, V]."""
        cache, self._cache = self._cache, None
        feed, shown = (
            (ids, images) if cache is not None else (self.ids + ids, self._pixels + images)
        )
        logits, self._cache = self.chat_model.extend(cache, feed, shown)
        self.ids += ids
        self._pixels += images
        return logits


class TextStream:
    """Decodes ids into text one by one, never half a character."""

    def __init__(self, tokenizer: TextTokenizer):
        """Start an empty text."""
        self.ids: list[int] = []
        self.text = ""
        """The text of all ids so far."""
        self._tokenizer = tokenizer
        self._num_shown = 0

    def add(self, one: int) -> str:
        """Add an id; return the text that has become certain, perhaps none.

        A character of several bytes may take several ids. Until it is complete, its text is the
        replacement character, which is not returned.
        """
        self.ids.append(one)
        self.text = self._tokenizer.decode(self.ids)
        certain = len(self.text.rstrip("\ufffd"))
        piece = self.text[self._num_shown : certain]
        self._num_shown = max(self._num_shown, certain)
        return piece

    def flush(self) -> str:
        """Return the rest of the text, at the end of the answer."""
        piece, self._num_shown = self.text[self._num_shown :], len(self.text)
        return piece
