"""Tasks. A task encodes, collates, gives the loss as a sum, measures and decodes; it knows no training loop.

What a comparison has to know of it, each task file says under the same names:

COMPARED       the metrics that are compared; all follow from predictions.jsonl, by ``metrics_of(rows)``
MARGIN_UNITS   {metric: unit of compare.margin, English and Chinese}; ``margin_of`` turns the margin into the metric's own unit
ROW_TESTS      {metric: mcnemar | swap}: metrics that are ``from_counts`` of sums of ``row_counts``, and their test over rows.
               mcnemar: the counts are (right or not, 1); swap: any counts, whose rows two models can exchange
SECTIONS       what the report shows besides: classes, confusion, calibration, disagreements (of rows with one label),
               gaps (rows on which two arms differ most, by ``row_text`` and ``row_answer``), answers (samples.jsonl)
SCORED_ONLY    train options of a run that is scored and nothing else, as in a search for rates
GAP_METRIC     (optional) the metric of ``gaps`` where the deciding one says nothing of a single row
columns        rows of a side as columns that are read back as the same rows
classes_of     precision, recall, f1 and rows of each class, out of the metrics

What training has to know where a head speaks in the units of the data (optional): ``start_head`` before the method is applied,
``scale_head`` after it, ``restore_head`` before the model is saved.
"""

from types import ModuleType

from weitiao.tasks import causal_lm, classification, multi_label, regression, token_classification

TASKS: dict[str, ModuleType] = {
    "classification": classification,
    "causal_lm": causal_lm,
    "token_classification": token_classification,
    "multi_label": multi_label,
    "regression": regression,
}
