"""What a trained model can do: tasks, their scores, and the table of results.

tasks.py lists the tasks, score.py scores them, evaluate.py fills tasks.parquet of a results folder.
"""
