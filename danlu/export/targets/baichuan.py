"""Baichuan 2 as Baichuan 1: the normalised head becomes a plain one, once and for all."""

from danlu.export.reexpressing import architecture_target

TARGET = architecture_target("baichuan", "Baichuan 2 as Baichuan 1, its head normalised")
