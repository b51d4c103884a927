"""Chat with a checkpoint: in a terminal, on a web page, or through OpenAI's API.

Offers `chat_model.load_chat_model` (a model with its tokenizer and template), `session.ChatSession`
(one dialogue and its cache) and `generation.Sampling`. Above them stand `terminal`, and `service`,
`messages` and `server` for HTTP. Of the model it uses only "extend this cache by these ids and
pixels". Knows no run, no loop and no evaluation.
"""
