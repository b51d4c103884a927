"""Sources whose entries are conversations: LLaVA's files, and users' own data.

`turns` reads LLaVA's form of a conversation, `messages` that of OpenAI, `entry_fields` what either
says beside its texts. Each other file is a data
set or a family of them. Must not know: MIMIC-IT.
"""
