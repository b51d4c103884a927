"""Answer requests that contain their whole dialogue, and keep the caches of recent dialogues.

In: a checked `ChatRequest`. Out: the pieces of its answer. A client sends all rounds every time. If
they continue a kept session, only the new round is fed to the model, else all of them are: up to
rounding that changes only the time. The caller must answer one request at a time.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from torch import Tensor

from vchat.train.chat.chat_model import ChatModel
from vchat.train.chat.messages import ChatRequest, RequestRound
from vchat.train.chat.session import ChatRound, ChatSession, EndReason

Key = tuple[object, ...]
"""A dialogue: its system text, then for each round image digests, question, places, answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRequest:
    """A request that can be answered."""

    request: ChatRequest
    session: ChatSession
    """Has the earlier rounds, which are not fed yet."""

    images: list[Tensor]
    """Of the last round."""

    history: Key
    """The dialogue before the last round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerResult:
    """How an answer ended, and its size."""

    end_reason: EndReason
    prompt_tokens: int
    """Positions before the answer, including earlier rounds and images."""

    completion_tokens: int
    """Tokens of the answer, including the end token if the model generated one."""


class ChatService:
    """A model, and the sessions of the most recent dialogues."""

    def __init__(self, chat_model: ChatModel, *, num_sessions: int = 4):
        """Each of the `num_sessions` kept sessions holds the KV cache of its dialogue."""
        self.chat_model = chat_model
        self._num_sessions = num_sessions
        self._sessions: OrderedDict[Key, ChatSession] = OrderedDict()

    def prepare(self, request: ChatRequest) -> PreparedRequest:
        """Decode the images and check that the dialogue fits; runs no model.

        May run while another request is answered.

        Raises:
            ValueError: An image is undecodable, or the model has too few positions.
        """
        chat_model = self.chat_model
        if request.system is not None:
            chat_model = chat_model.with_system(request.system)
        session = ChatSession(chat_model, sampling=request.sampling, seed=request.seed)
        pixels = self._pixels(request.rounds)
        for asked, images in zip(request.rounds[:-1], pixels[:-1], strict=True):
            session.add_round(
                asked.question, asked.answer or "", images=images, places=asked.places
            )
        last = request.rounds[-1]
        session.ask(last.question, images=pixels[-1], places=last.places).close()
        history: Key = (request.system, *map(_round_key, request.rounds[:-1]))
        return PreparedRequest(request=request, session=session, images=pixels[-1], history=history)

    def answer(self, prepared: PreparedRequest) -> Generator[str, None, AnswerResult]:
        """Yield the pieces of the answer; return its result.

        Closing the generator stops the answer.
        """
        asked = prepared.request.rounds[-1]
        session = self._session(prepared)
        pieces = session.ask(asked.question, images=prepared.images, places=asked.places)
        num_rounds = len(session.rounds)
        try:
            yield from pieces
        finally:
            pieces.close()
            if len(session.rounds) > num_rounds:
                self._keep(session, (*prepared.history, _round_key(asked, session.rounds[-1])))
        return _result_of(session)

    def _session(self, prepared: PreparedRequest) -> ChatSession:
        """Return the kept session of this dialogue if the next round fits, else the new one."""
        kept = self._sessions.pop(prepared.history, None)
        if kept is None:
            return prepared.session
        kept.sampling = prepared.request.sampling
        kept.set_seed(prepared.request.seed)
        last = prepared.request.rounds[-1]
        try:
            kept.ask(last.question, images=prepared.images, places=last.places).close()
        except ValueError:  # answers may take more positions as generated than as encoded
            return prepared.session
        return kept

    def _keep(self, session: ChatSession, key: Key) -> None:
        self._sessions[key] = session
        self._sessions.move_to_end(key)
        while len(self._sessions) > self._num_sessions:
            self._sessions.popitem(last=False)

    def _pixels(self, rounds: Sequence[RequestRound]) -> list[list[Tensor]]:
        """Decode the images of each round; an error numbers them from the dialogue's first."""
        pixels: list[list[Tensor]] = []
        number = 0
        for asked in rounds:
            pixels.append([])
            for data in asked.images:
                number += 1
                try:
                    pixels[-1].append(self.chat_model.decode_picture(data))
                except ValueError as err:
                    raise ValueError(f"image {number} of the dialogue: {err}") from err
        return pixels


def _result_of(session: ChatSession) -> AnswerResult:
    last = session.rounds[-1]
    positions = len(session.ids) + len(session.pending_ids)
    return AnswerResult(
        end_reason=last.end_reason,
        prompt_tokens=positions - last.num_tokens - 1,
        completion_tokens=last.num_tokens + (last.end_reason is EndReason.BY_MODEL),
    )


def _round_key(asked: RequestRound, answered: ChatRound | None = None) -> Key:
    digests = tuple(hashlib.sha256(data).digest() for data in asked.images)
    question = (asked.question, asked.places)
    return digests, question, asked.answer if answered is None else answered.answer
