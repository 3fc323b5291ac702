"""Values and gradients of the estimators, by the fastest path that applies. Imports nothing above it.

A call goes: `dispatch` (which path?) -> `naive`, `torch`, `compiled` or `triton`, each of which takes a `Setting`. Read
`methods` (what a method is to a path), `settings`, `plan` (a solver as a table), `naive` (the truth), `dispatch`, then
a path.
"""
