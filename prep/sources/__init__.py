"""The data sets that a build knows: one file each, which turns upstream files into records.

Offers `catalogue` (`SOURCES`, `find_source`), `source` (`Source`, `Entry`, `Need`) and `own`
(a user's own files, in `conversations`). A new data set is one file here and one line in
`catalogue`; installed packages add theirs through `plugins`. Must not know: tokenizers, blending,
randomness, writing.
"""
