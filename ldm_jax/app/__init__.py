"""The page to play with: app.py.

`asking` turns what is on the page into settings of `Model.sample`, `studio` draws with one
model step by step, `page` is what is seen (the only file that knows Gradio).
"""
