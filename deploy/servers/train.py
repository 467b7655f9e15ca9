"""Fits the demo's model, and writes it where MLServer finds it: a random forest on scikit-learn's own iris data."""

import json
import sys
from pathlib import Path

import joblib
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier

folder = Path(sys.argv[1]) / "iris"
folder.mkdir(parents=True, exist_ok=True)
rows, kinds = load_iris(return_X_y=True)
forest = RandomForestClassifier(n_estimators=50, random_state=0).fit(rows, kinds)
joblib.dump(forest, folder / "model.joblib")
settings = {
    "name": "iris",
    "implementation": "mlserver_sklearn.SKLearnModel",
    "parameters": {"uri": "./model.joblib", "version": "v1"},
}
(folder / "model-settings.json").write_text(json.dumps(settings, indent=2))
