"""What every package stands on: files, locks, command lines, TOML, progress, small arithmetic.

Offers `cli` (command groups, exit codes, `WrongUse`), `terminal_text` (printing without control
characters), `json_text` and `checked_json` (JSON from outside, bounded and checked), `safe_paths`
(names from outside as files in a folder), `toml_config` (TOML to dataclasses), `files`
(atomic writes, digests), `locks` (between processes), `processes` (worker pools), `nearest`
(suggestions for mistyped names), `arrays`, `progress`, `imports` (of large
libraries, faster), `page` (the style of all HTML pages), `faces` (public names of a package) and
`version`. Knows nothing of the other packages.
"""
