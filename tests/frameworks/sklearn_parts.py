"""An estimator of scikit-learn's and a callback of skorch's that hold a parcel."""

import carried
from sklearn.base import BaseEstimator, ClassifierMixin
from skorch.callbacks import Callback


class Estimator(ClassifierMixin, BaseEstimator):
    def __init__(self, parcel=None, c=1):
        self.parcel = parcel
        self.c = c

    def fit(self, x, y):
        carried.use(self.parcel)
        self.classes_ = [0, 1]
        return self

    def predict(self, x):
        return [0] * len(x)


class UseAtStart(Callback):
    def __init__(self, parcel):
        self.parcel = parcel

    def on_train_begin(self, net, **_):
        carried.use(self.parcel)
