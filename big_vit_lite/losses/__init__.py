"""Losses: plain functions of arrays, useful without anything else here."""
