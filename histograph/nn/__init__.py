"""Layers shared by the methods: segments, graph and hypergraph convolution, attention inside graphs, diffusion."""

from .anchor_attention import AnchorAttention, AnchorCodes, DenseEdges, SparseEdges, main_direction
from .attention import AttentionLayout, CrossAttention, SelfAttention, graph_attention, received_attention
from .balanced_assignment import balanced_assignment
from .clam import GatedAttentionHead
from .diffusion import SCHEDULES, Diffusion, antithetic_times, beta_schedule
from .dino_head import DINOHead, UnitRows
from .dino_loss import DINOLoss, cross_entropies
from .follow import clip_each, follow
from .gcn import GraphConv
from .hypergraph import DualHypergraph, HypergraphConv
from .masked_autoencoder import Hiding, MaskedAutoencoder, hide, patchify, square_scale, unpatchify
from .masking import edge_pairs, random_subset
from .memory_bank import Bank, MemoryBank
from .multi_crop import View
from .photo_jitter import photo_jitter
from .prototype_graph import PrototypeGraph, PrototypeTargets
from .prototype_sets import NearestSlides, nearest_slides, set_similarity
from .region_views import centre_crop, crop_grids, random_crop, to_grids
from .region_vit import RegionTransformer
from .resample import crop_resize, random_boxes
from .reverse import burn_in_rounds, reverse_process, reverse_times
from .schedules import cosine_schedule, linear_rise
from .segment_kmeans import KMeans, prototypes, segment_kmeans
from .segments import SparseSum, segment_max, segment_mean, segment_softmax, segment_sum
from .sincos import sincos_positions
from .slide_heads import AttentionHead, MeanHead, RegionTransformerHead, SlideHead, SlideReading
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
    "AttentionHead",
    "AttentionLayout",
    "Bank",
    "CrossAttention",
    "DINOHead",
    "DINOLoss",
    "DenseEdges",
    "Diffusion",
    "DualHypergraph",
    "GatedAttentionHead",
    "GraphConv",
    "Hiding",
    "HypergraphConv",
    "KMeans",
    "MaskedAutoencoder",
    "MeanHead",
    "MemoryBank",
    "NearestSlides",
    "PrototypeGraph",
    "PrototypeTargets",
    "RegionTransformer",
    "RegionTransformerHead",
    "SelfAttention",
    "SlideHead",
    "SlideReading",
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
    "balanced_assignment",
    "beta_schedule",
    "burn_in_rounds",
    "centre_crop",
    "clip_each",
    "cosine_schedule",
    "crop_grids",
    "crop_resize",
    "cross_entropies",
    "edge_pairs",
    "follow",
    "graph_attention",
    "hide",
    "induced",
    "linear_rise",
    "main_direction",
    "nearest_slides",
    "patchify",
    "photo_jitter",
    "prototypes",
    "random_boxes",
    "random_crop",
    "random_subset",
    "random_window",
    "received_attention",
    "reverse_process",
    "reverse_times",
    "segment_kmeans",
    "segment_max",
    "segment_mean",
    "segment_softmax",
    "segment_sum",
    "set_similarity",
    "sincos_positions",
    "sinusoidal_embedding",
    "square_scale",
    "stain_jitter",
    "to_grids",
    "unpatchify",
    "vit",
]
