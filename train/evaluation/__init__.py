"""Questions or dialogues answered by a checkpoint, and the scores of the answers.

Offers `evaluate.open_evaluation`, `evaluate_questions` and `evaluate_dialogues`. `questions` and
`dialogue_questions` describe the files that are read, `answer_files` those that are written.
Stands on `train.chat`, which never imports it. Knows no run and no shards.
"""
