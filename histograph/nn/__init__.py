"""Layers shared by the methods: segments, graph and hypergraph convolution, attention inside graphs, diffusion."""

from .anchor_attention import AnchorAttention, AnchorCodes, DenseEdges, SparseEdges, main_direction
from .attention import AttentionLayout, CrossAttention, SelfAttention, graph_attention, received_attention
from .diffusion import SCHEDULES, Diffusion, antithetic_times, beta_schedule
from .gcn import GraphConv
from .hypergraph import DualHypergraph, HypergraphConv
from .masking import edge_pairs, random_subset
from .reverse import burn_in_rounds, reverse_process, reverse_times
from .segments import SparseSum, segment_max, segment_mean, segment_softmax, segment_sum
from .standardise import Standardise
from .time import TimeEmbedding, sinusoidal_embedding

__all__ = [
    "SCHEDULES",
    "AnchorAttention",
    "AnchorCodes",
    "AttentionLayout",
    "CrossAttention",
    "DenseEdges",
    "Diffusion",
    "DualHypergraph",
    "GraphConv",
    "HypergraphConv",
    "SelfAttention",
    "SparseEdges",
    "SparseSum",
    "Standardise",
    "TimeEmbedding",
    "antithetic_times",
    "beta_schedule",
    "burn_in_rounds",
    "edge_pairs",
    "graph_attention",
    "main_direction",
    "random_subset",
    "received_attention",
    "reverse_process",
    "reverse_times",
    "segment_max",
    "segment_mean",
    "segment_softmax",
    "segment_sum",
    "sinusoidal_embedding",
]
