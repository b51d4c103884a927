"""Questions or dialogues answered by a checkpoint, and the scores of the answers.

Offers `evaluate.open_evaluation`, `evaluate_questions` and `evaluate_dialogues`; the files they read
are described in `questions` and `dialogue_questions`, the files they write in `answer_files`.
Stands on `train.chat`, which never imports it. Knows no run and no shards.
"""
