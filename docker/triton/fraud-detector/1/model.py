"""Scores payments: amount, txn_count_1h, avg_amount_7d and chargeback_rate in, a probability a row out."""

import numpy as np
import triton_python_backend_utils as pb_utils

WEIGHTS = np.array([0.004, 0.25, -0.005, 20.0])
BIAS = -4.0


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        rows = pb_utils.get_input_tensor_by_name(request, "input-0").as_numpy()
        score = 1.0 / (1.0 + np.exp(-(rows.astype(np.float64) @ WEIGHTS + BIAS)))
        return pb_utils.InferenceResponse([pb_utils.Tensor("score", score.astype(np.float32))])
