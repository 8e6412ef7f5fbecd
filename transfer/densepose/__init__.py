"""Chart-based DensePose R-CNN (Güler et al., 2018), from annotations to GPS AP.

It computes what projects/DensePose of facebookresearch/detectron2@02b5c4e2 does, called upstream in
this folder: names of parameters, config keys and results are upstream's, too.
"""
