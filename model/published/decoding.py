"""Running a decoder as the published code does: dense, row by row."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from vchat.model.cached_layout import DialogueCache
from vchat.model.decoding import Predictors, Rows, find_predictors, predictors, run_decoder
from vchat.model.published.attention import make_published_layout


@dataclass(frozen=True, slots=True)
class PublishedDecoding:
    """Runs rows as they are: `mmca_published`."""

    decoder: PreTrainedModel

    def decode_all(self, rows: Rows) -> Tensor:
        """See `Decoding`."""
        layout = make_published_layout(rows.kinds, rows.segments, num_new=rows.kinds.shape[1])
        return run_decoder(self.decoder, rows.embeddings, rows.positions(), layout)

    def decode_predictors(self, rows: Rows, labels: Tensor) -> Predictors:
        """See `Decoding`."""
        row, column = find_predictors(labels, rows.segments)
        return predictors(self.decode_all(rows)[row, column], labels, row, column)

    def decode_newest(self, rows: Rows, cache: DialogueCache) -> Tensor:
        """See `Decoding`."""
        kinds, segments, _ = cache.remember(rows.kinds, rows.segments)
        layout = make_published_layout(kinds, segments, num_new=rows.kinds.shape[1])
        position_ids = rows.newest_positions(segments)
        return run_decoder(self.decoder, rows.embeddings, position_ids, layout, cache)
