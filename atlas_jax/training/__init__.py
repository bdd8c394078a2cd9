"""The joint train step and what only training needs: losses, gold scores, optimiser, state,
refresh.
"""
