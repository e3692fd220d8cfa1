"""Layers shared by the methods: segments, graph and hypergraph convolution, attention inside graphs, diffusion."""

from .anchor_attention import AnchorAttention, AnchorCodes, DenseEdges, SparseEdges, main_direction
from .attention import AttentionLayout, CrossAttention, SelfAttention, graph_attention, received_attention
from .diffusion import SCHEDULES, Diffusion, antithetic_times, beta_schedule
from .dino_head import DINOHead, UnitRows
from .dino_loss import DINOLoss
from .follow import clip_each, follow
from .gcn import GraphConv
from .hypergraph import DualHypergraph, HypergraphConv
from .masked_autoencoder import Hiding, MaskedAutoencoder, hide, patchify, square_scale, unpatchify
from .masking import edge_pairs, random_subset
from .memory_bank import Bank, MemoryBank
from .multi_crop import View
from .photo_jitter import photo_jitter
from .resample import crop_resize, random_boxes
from .reverse import burn_in_rounds, reverse_process, reverse_times
from .schedules import cosine_schedule, linear_rise
from .segments import SparseSum, segment_max, segment_mean, segment_softmax, segment_sum
from .sincos import sincos_positions
from .stain_jitter import stain_jitter
from .standardise import Standardise
from .time import TimeEmbedding, sinusoidal_embedding
from .vit import VIT_SIZES, TransformerBlock, VisionTransformer, vit
from .windows import Subgraphs, induced, random_window

__all__ = [
    "SCHEDULES",
    "VIT_SIZES",
    "AnchorAttention",
    "AnchorCodes",
    "AttentionLayout",
    "Bank",
    "CrossAttention",
    "DINOHead",
    "DINOLoss",
    "DenseEdges",
    "Diffusion",
    "DualHypergraph",
    "GraphConv",
    "Hiding",
    "HypergraphConv",
    "MaskedAutoencoder",
    "MemoryBank",
    "SelfAttention",
    "SparseEdges",
    "SparseSum",
    "Standardise",
    "Subgraphs",
    "TimeEmbedding",
    "TransformerBlock",
    "UnitRows",
    "View",
    "VisionTransformer",
    "antithetic_times",
    "beta_schedule",
    "burn_in_rounds",
    "clip_each",
    "cosine_schedule",
    "crop_resize",
    "edge_pairs",
    "follow",
    "graph_attention",
    "hide",
    "induced",
    "linear_rise",
    "main_direction",
    "patchify",
    "photo_jitter",
    "random_boxes",
    "random_subset",
    "random_window",
    "received_attention",
    "reverse_process",
    "reverse_times",
    "segment_max",
    "segment_mean",
    "segment_softmax",
    "segment_sum",
    "sincos_positions",
    "sinusoidal_embedding",
    "square_scale",
    "stain_jitter",
    "unpatchify",
    "vit",
]
